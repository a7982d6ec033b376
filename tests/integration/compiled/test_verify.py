"""`molt-worker build --verify`: a module that answers otherwise when compiled is left in Python."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from molt_worker.compile.record import Record
from tests.support.builds import run_build

FILES = {
    "exact.py": "def double(payload: int) -> int:\n    return payload * 2\n",
    "inexact.py": "def scaled(payload: float) -> list[object]:\n    return ['a', payload]\n",
    "calls.jsonl": """
        {"entry": "double", "payload": 4}
        {"entry": "scaled", "payload": 3}
        {"entry": "scaled", "payload": "x"}
    """,
}
REASON = "answers otherwise when compiled: call 2 (scaled): $[1]: 3.0 instead of 3"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    targets = {"double": "exact:double", "scaled": "inexact:scaled"}
    rows = [{"name": name, "target": target} for name, target in targets.items()]
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "exports.json").write_text(json.dumps({"abi_version": "0.1", "exports": rows}))
    return tmp_path


@pytest.mark.slow
def test_modules_that_differ_are_left_in_python_until_all_calls_are_alike(folder: Path) -> None:
    done = run_build("exports.json", "--verify", "calls.jsonl", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    record = msgspec.json.decode(done.stdout, type=Record)
    assert [(each.name, each.compiled, each.reason) for each in record.modules] == [
        ("exact", True, ""),
        ("inexact", False, REASON),
    ]
    assert record.calls == 3
    for arguments in ((), ("--verify", "calls.jsonl"), ("--check",)):  # it stays in use
        again = run_build("exports.json", *arguments, cwd=folder)
        assert (again.returncode, again.stderr) == (0, "")
        assert "3 calls give the same in Python and compiled" in again.stdout
        assert f"inexact  left in Python: {REASON}" in again.stdout
    assert run_build("exports.json", "--strict", cwd=folder).returncode == 1


def test_calls_that_are_not_in_order_are_wrong_usage(folder: Path) -> None:
    for text, error in (('{"entry": "no"}', "there is no entrypoint 'no'"), ("{", "calls.jsonl:1: ")):
        (folder / "calls.jsonl").write_text(text)
        done = run_build("exports.json", "--verify", "calls.jsonl", cwd=folder)
        assert done.returncode == 2
        assert error in done.stderr
    done = run_build("exports.json", "--include", "exakt", cwd=folder)
    assert (done.returncode, "--include exakt: the exports import no such module" in done.stderr) == (2, True)


@pytest.mark.slow
def test_each_module_is_left_for_its_own_difference(folder: Path) -> None:
    """The first call to differ needn't be of the module that is found first."""
    (folder / "exact.py").write_text("def double(payload: float) -> list[object]:\n    return [payload]\n")
    (folder / "calls.jsonl").write_text(
        '{"entry": "scaled", "payload": 3}\n{"entry": "double", "payload": 4}\n'
    )
    done = run_build("exports.json", "--verify", "calls.jsonl", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    record = msgspec.json.decode(done.stdout, type=Record)
    assert {
        each.name: each.reason.removeprefix("answers otherwise when compiled: ") for each in record.modules
    } == {
        "exact": "call 2 (double): $[0]: 4.0 instead of 4",
        "inexact": "call 1 (scaled): $[1]: 3.0 instead of 3",
    }
