"""Calls that are run in Python and compiled, and how their outcomes are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from molt_worker.compile import verify as subject
from molt_worker.compile.record import CompiledError
from molt_worker.compile.verify import Call, Expected, Outcome
from tests.support.builds import Built


@pytest.mark.parametrize(
    ("python", "native", "expected"),
    [
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, []),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, [("$.a[1].b", "2", "3")]),
        ([1, True], [1.0, 1], [("$[0]", "1", "1.0"), ("$[1]", "True", "1")]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, [("$", "keys in the order ['a', 'b']", "['b', 'a']")]),
        ({"a": 1}, {"b": None}, [("$.a", "1", "(missing)"), ("$.b", "(missing)", "None")]),
        ([1, 2], [1], [("$", "2 items", "1 items")]),
        ([float("nan")], [float("nan")], []),
        (("KeyError: 1",), ("KeyError: 2",), [("$", "raises KeyError: 1", "raises KeyError: 2")]),
        (3, ("TypeError: int",), [("$", "3", "raises TypeError: int")]),
    ],
)
def test_the_paths_at_which_two_results_differ(
    python: Any, native: Any, expected: list[tuple[str, ...]]
) -> None:
    assert list(subject.differences(python, native)) == expected


def test_calls_are_read_and_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text('{"entry": "a"}\n\n{"entry": "b", "payload": [1], "codec": "json"}\n')
    assert subject.read_calls(path) == [Call("a"), Call("b", [1], "json")]
    for text, error in (
        ('{"entry": "a"}\n{"entry": 1}\n', r"calls.jsonl:2: Expected `str`"),
        ('{"entry": "a", "codec": "raw", "payload": "?"}', r"calls.jsonl:1: "),
        ("\n", "has no calls"),
    ):
        path.write_text(text)
        with pytest.raises(CompiledError, match=error):
            subject.read_calls(path)
    with pytest.raises(CompiledError, match="nowhere: can't be read: No such file"):
        subject.read_calls(Path("nowhere"))


def test_what_differs_from_one_run_to_the_next_in_python_is_not_compared() -> None:
    expected = Expected([Call("a"), Call("b")], [packed({"t": 1, "n": 1}), packed(2)], [{"$.t"}, set()])
    assert expected.difference([packed({"t": 9, "n": 1}), packed(2)]) == ""
    assert expected.difference([packed({"t": 9, "n": 1}), packed(3)]) == "call 2 (b): $: 3 instead of 2"
    raised = Outcome(error="TypeError: no")
    assert (
        expected.difference([raised, packed(2)])
        == "call 1 (a): $: raises TypeError: no instead of {'n': 1, 't': 1}"
    )


def packed(value: object) -> Outcome:
    return Outcome("msgpack", subject.codec.encode("msgpack", value))


def test_real_workers_give_results_and_exceptions_in_python_and_compiled(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(built.folder)
    monkeypatch.syspath_prepend(str(built.folder))
    calls = [
        Call("total", [1, 2]),
        Call("fail", "x\ny"),
        Call("refuse", 1),
        Call("total", "no"),
        Call("faults", "A"),
    ]
    python = subject.outcomes(str(built.manifest), calls)
    assert [each.value for each in python] == [
        6,
        ("KeyError: 'x\\ny'",),
        ("MoltInvalidInput: no 1",),
        ("TypeError: unsupported operand type(s) for +=: 'int' and 'str'",),
        [2, 2, 2.5, "a"],
    ]
    native = subject.outcomes(str(built.manifest), calls, built.manifest.parent / ".molt-build")
    assert native[3].value == ("TypeError: list object expected; got str",)
    assert Expected(calls, python, [set()] * 5).difference(native) == (
        "call 4 (total): $: raises TypeError: list object expected; got str instead of "
        "raises TypeError: unsupported operand type(s) for +=: 'int' and 'str'"
    )


def test_a_call_of_an_unknown_entrypoint_is_an_error(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.folder)
    with pytest.raises(
        CompiledError, match=r"there is no entrypoint 'ttoal'; there are: total, refuse, fail"
    ):
        subject.outcomes(str(built.manifest), [Call("ttoal")])
