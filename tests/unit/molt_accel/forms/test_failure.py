"""molt_accel.forms.failure: the place of a failure is shown in a process that doesn't have its frames."""

import inspect
import itertools
import traceback
from collections.abc import Callable
from types import CodeType

import pytest

from molt_accel.forms import failure
from molt_accel.forms.failure import Failure


def _caller(function: Callable[[], object]) -> Failure:
    try:
        function()
    except Exception as exc:
        return failure.packed(exc, inspect.currentframe().f_code)  # type: ignore[union-attr]
    raise AssertionError


def _inner(left: int = 0) -> None:
    if left:
        _inner(left - 1)
    raise KeyError("secret")


def test_frames_below_the_caller_name_their_lines_and_hold_nothing() -> None:
    made = _caller(lambda: _inner())
    assert (made["class"], made["module"], made["text"]) == ("KeyError", "builtins", "'secret'")
    tb = failure.traceback_of(made)
    assert tb is not None
    summary = traceback.extract_tb(tb)
    assert [(each.filename, each.name) for each in summary] == [(__file__, "<lambda>"), (__file__, "_inner")]
    assert summary[-1].line == 'raise KeyError("secret")'
    for frame, line in traceback.walk_tb(tb):
        assert (dict(frame.f_locals), frame.f_globals["__name__"], frame.f_back) == ({}, __name__, None)
        # Django's page asks for the columns of the instruction.
        (where,) = itertools.islice(frame.f_code.co_positions(), 1)
        assert where == (line, line, None, None)


def test_a_deep_stack_keeps_both_of_its_ends() -> None:
    frames = _caller(lambda: _inner(300))["frames"]
    assert len(frames) == 40
    assert (frames[0][2], frames[-1][1]) == ("<lambda>", frames[-2][1] + 1)


def test_an_exception_that_has_no_text_and_odd_names_travels() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def fail() -> None:
        raise Odd

    def half() -> None:
        raise ValueError("\ud800" * 2000)

    assert _caller(fail)["text"] == "<Odd>"
    assert _caller(half)["text"] == "?" * 1000


@pytest.mark.parametrize(
    "frames",
    [
        None,
        7,
        [1],
        [["f", 1]],
        [["f", "1", "g", "m"]],
        [["f", 2**40, "g", "m"]],
        [["f\0", 1, 2, 3]],
    ],
)
def test_what_is_no_failure_has_no_traceback(frames: object) -> None:
    assert failure.traceback_of({"frames": frames}) is None
    assert failure.traceback_of({}) is None


def test_no_frames_are_no_traceback() -> None:
    code: CodeType = _inner.__code__
    assert failure.traceback_of(failure.packed(ValueError(), code)) is None
