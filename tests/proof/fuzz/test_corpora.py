"""What the fuzzers have found worth keeping, run once more: every corpus, through every target."""

import shlex
import shutil
import subprocess
import sys
import sysconfig
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("shared memory is served on Linux only", allow_module_level=True)

from tests.proof.fuzz import building, corpora
from tests.proof.fuzz.coverage_guided import shared, speaking
from tests.proof.fuzz.coverage_guided.targets import TARGETS, Target

#: More than any input here may make a target hold: some thousand times its length.
_MOST_BYTES = 16 * 1024 * 1024


@pytest.fixture(autouse=True)
def _released(nothing_left_behind: None) -> Iterator[None]:
    """What targets keep between inputs is gone when it is looked for what is left."""
    yield
    shared.release()
    speaking.release()


@pytest.mark.parametrize("target", [*building.TARGETS, *TARGETS])
def test_an_archive_is_what_inputs_make(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, stored = corpora.read(target), corpora.path_of(target).read_bytes()
    assert inputs
    monkeypatch.setattr(corpora, "FOLDER", tmp_path)
    corpora.write(target, {**inputs, "another": next(iter(inputs.values()))})
    assert corpora.path_of(target).read_bytes() == stored
    assert corpora.files_in(corpora.unpack(target, tmp_path / "files").iterdir()) == inputs


def test_a_minimised_corpus_reaches_as_much_and_keeps_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    def toy(data: bytes) -> int | str:
        if data.startswith(b"a"):
            return len(data)
        return data.decode("ascii")

    monkeypatch.setitem(corpora.PYTHON_TARGETS, "toy", toy)
    inputs = {"0": b"", "1": b"a", "2": b"aa", "3": b"b", "a-finding": b"aaa"}
    assert corpora.minimised("toy", inputs) == {"0": b"", "1": b"a", "a-finding": b"aaa"}


@pytest.mark.sample(1)
@pytest.mark.parametrize("target", building.TARGETS)
def test_no_kept_input_makes_the_core_do_what_it_must_not(target: str, tmp_path: Path) -> None:
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    if not shutil.which(compiler[0]):
        pytest.skip("there is no C compiler")
    try:
        program = building.build(compiler, target, tmp_path, fuzzer=False)
    except RuntimeError as exc:
        if "sanitize" in str(exc) or "san" in str(exc):
            pytest.skip("the compiler has no sanitizers")
        raise
    inputs = sorted(corpora.unpack(target, tmp_path / "files").iterdir())
    done = subprocess.run(
        [str(program), *map(str, inputs)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"{len(inputs)} inputs\n"


@pytest.mark.parametrize(("name", "target"), TARGETS.items())
def test_no_kept_input_makes_a_reader_fail_or_hoard(name: str, target: Target) -> None:
    inputs = list(corpora.read(name).values())
    target(b"")  # what it sets up once is not an input's
    tracemalloc.start()
    try:
        for data in inputs:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            target(data)
            assert tracemalloc.get_traced_memory()[1] - before < _MOST_BYTES, data[:100]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("name", "target"), TARGETS.items())
def test_no_input_makes_a_reader_fail(name: str, target: Target) -> None:
    kept = list(corpora.read(name).values())
    near = st.tuples(st.sampled_from(kept), st.binary(max_size=20), st.integers(0, 300)).map(
        lambda drawn: drawn[0][: drawn[2]] + drawn[1] + drawn[0][drawn[2] + len(drawn[1]) :]
    )

    @given(st.binary(max_size=300) | near)
    def search(data: bytes) -> None:
        target(data)

    search()
