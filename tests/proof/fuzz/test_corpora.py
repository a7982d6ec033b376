"""What the fuzzers have found worth keeping, run once more: every corpus, through every target."""

from __future__ import annotations

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

from tests.proof.fuzz import building
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


def _corpus(target: str) -> list[Path]:
    return sorted((building.CORPUS / target).iterdir())


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
    inputs = _corpus(target)
    done = subprocess.run(
        [str(program), *map(str, inputs)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"{len(inputs)} inputs\n"


@pytest.mark.parametrize(("name", "target"), TARGETS.items())
def test_no_kept_input_makes_a_reader_fail_or_hoard(name: str, target: Target) -> None:
    inputs = [path.read_bytes() for path in _corpus(name)]
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
    kept = [path.read_bytes() for path in _corpus(name)]
    inputs = st.binary(max_size=300)
    if kept:
        near = st.tuples(st.sampled_from(kept), st.binary(max_size=20), st.integers(0, 300))
        inputs |= near.map(
            lambda drawn: drawn[0][: drawn[2]] + drawn[1] + drawn[0][drawn[2] + len(drawn[1]) :]
        )

    @given(inputs)
    def search(data: bytes) -> None:
        target(data)

    search()
