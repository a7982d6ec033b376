"""What `tox -e mutate` runs: each fault is one, has tests that could notice it, and is made in copies only."""

from __future__ import annotations

import contextlib
import random
import shlex
import subprocess
from itertools import islice
from pathlib import Path

import pytest

from tests.proof.mutation import survivors, trees
from tests.proof.mutation.modules import PATTERNS, ROOT, modules, own_tests, promises
from tests.proof.mutation.mutants import Mutant, patches, sample
from tests.proof.mutation.run import Verdicts, make_parser
from tests.proof.mutation.trees import Baselines, Ran, Tree


def test_each_module_has_tests() -> None:
    assert [pattern for pattern in PATTERNS if not [*ROOT.glob(pattern)]] == []  # else it has moved
    assert len(modules()) > 40
    files = {file for module in modules() for file in (*own_tests(module), *promises(module))}
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []


def test_each_patch_fits_its_file_and_names_tests_that_are_there() -> None:
    mutants = patches()
    assert len({mutant.operator for mutant in mutants}) == len(mutants) > 50
    files = {test.partition("::")[0] for mutant in mutants for stage in mutant.tests for test in stage}
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []


def test_a_patch_that_no_longer_fits_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outdated = tmp_path / "patches.toml"
    outdated.write_text(
        '[[patch]]\nname = "x"\nfile = "setup.py"\nbefore = "no such"\nafter = ""\ntests = []\n'
    )
    monkeypatch.setattr("tests.proof.mutation.mutants.PATCHES", outdated)
    with pytest.raises(ValueError, match="'no such' 0 times, not once"):
        patches()


def test_each_accepted_survivor_is_of_code_that_is_there_and_has_a_reason() -> None:
    assert survivors.outdated() == []
    assert [key for key, reason in survivors.accepted().items() if len(reason) < 20] == []


def test_faults_are_of_each_kind_and_the_same_for_the_same_seed() -> None:
    pytest.importorskip("cosmic_ray")
    from tests.proof.mutation.mutants import in_module

    module = "molt_accel/ipc/outcomes.py"
    found = list(in_module(module, random.Random(1)))
    assert found == list(in_module(module, random.Random(1)))
    assert len({mutant.text for mutant in found}) == len(found) > 5
    assert {"NeverIf", "AddNot", "ExceptionReplacer"} <= {mutant.operator for mutant in found}
    source = (ROOT / module).read_text()
    assert all(mutant.before in source and mutant.after not in source for mutant in found if mutant.after)
    assert {mutant.tests for mutant in found} == {(own_tests(module), promises(module))}


def test_a_sample_takes_from_each_source_in_turn() -> None:
    mutants = [Mutant("f", str(n), n, "", "", "", "", ()) for n in range(9)]
    taken = sample({"a": iter(mutants[:6]), "b": iter(mutants[6:8]), "c": iter(mutants[8:])}, 6)
    assert [mutant.line for mutant in taken] == [0, 6, 8, 1, 7, 2]
    assert len(sample({"a": islice(iter(mutants), 4)}, None)) == 4


def test_only_a_survivor_without_a_reason_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(name: str) -> Mutant:
        return Mutant("f.py", "NeverIf", 1, "g", name, "pass", "", ())

    monkeypatch.setattr(survivors, "accepted", lambda: {mutant("accepted").key: "it is slower, no more"})
    verdicts = Verdicts()
    assert verdicts.add(mutant("new"), Ran(False, "", 1.0)) == "SURVIVED"
    assert verdicts.add(mutant("accepted"), Ran(False, "", 1.0)) == "accepted"
    assert verdicts.add(mutant("seen"), Ran(True, "test_x", 1.0)) == "noticed"
    assert [row["before"] for row in verdicts.survived] == ["new"]


def test_the_nightly_run_is_one_that_the_command_takes() -> None:
    nightly = (ROOT / ".github/workflows/nightly.yml").read_text()
    (line,) = [line for line in nightly.splitlines() if "tox -e mutate" in line]
    options = make_parser().parse_args(
        shlex.split(line.partition(" -- ")[2].replace("${{ github.run_number }}", "7"))
    )
    assert 50 <= options.sample <= 200
    assert options.output


def test_a_fault_is_put_into_a_copy_and_taken_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    copy.mkdir()
    source = "def f():\n    return 1\n"
    (original / "m.py").write_text(source)
    (original / "test_m.py").write_text("from m import f\n\ndef test_f() -> None:\n    assert f() == 1\n")
    plugin = original / "molt_accel" / "testing" / "plugin.py"  # pytest loads it by its entry point
    plugin.parent.mkdir(parents=True)
    plugin.touch()
    subprocess.run(["git", "init", "-q"], cwd=original, check=True)
    monkeypatch.setattr(trees, "ROOT", original)
    with contextlib.closing(Tree(copy, Baselines())) as tree:
        for returned, by in (("2", "test_m.py::test_f"), ("0 + 1", "")):
            text = source.replace("1", returned)
            ran = tree.try_mutant(Mutant("m.py", "", 2, "f", "", "", text, (("test_m.py",),)))
            assert (ran.failed, ran.by) == (bool(by), by)
            assert (copy / "m.py").read_text() == (original / "m.py").read_text() == source


def test_programs_of_the_tests_import_the_copy_whatever_their_environment(tmp_path: Path) -> None:
    """Else a fault that such a program should have noticed survives."""
    python = trees._environment(tmp_path / "environment", tmp_path / "copy")
    for name in ("molt_accel", "molt_worker"):
        package = tmp_path / "copy" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
    command = tmp_path / "copy/molt_worker/cli"
    command.mkdir()
    (command / "__init__.py").write_text("")
    (command / "main.py").write_text("def main():\n    print(__file__)\n")
    program = "import molt_accel, molt_worker, msgspec; print(molt_accel.__file__, molt_worker.__file__)"
    for words in ([python, "-c", program], [str(Path(python).with_name("molt-worker"))]):
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.split()
        assert all(Path(path).is_relative_to(tmp_path / "copy") for path in done.stdout.split())
