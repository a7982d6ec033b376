"""Where and with what an entrypoint failed: the exception's name and text, and its frames, as plain data that travels.

The side that has called makes frames of it again, which name the same lines of the same sources and hold no variables.
So Django's page, error trackers and debuggers show the entrypoint as the place of the failure. Nothing is pickled, and
no class is looked up.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any, Final

from molt_accel.lenient import text_of

#: A failure as it travels.
Failure = dict[str, Any]

_MAX_TEXT: Final = 1000  #: characters of the exception's text, and of each name
_OUTERMOST: Final = 10  #: frames that are kept of a deep stack, at its beginning and at its end
_INNERMOST: Final = 30


def packed(error: BaseException, caller: CodeType) -> Failure:
    """Return what of an exception travels: of its frames those below `caller`'s."""
    stack: list[tuple[FrameType, int]] = []
    for each in traceback.walk_tb(error.__traceback__):
        if each[0].f_code is caller:
            stack.clear()
        else:
            stack.append(each)
    if len(stack) > _OUTERMOST + _INNERMOST:
        stack = stack[:_OUTERMOST] + stack[-_INNERMOST:]
    cls = type(error)
    return {
        "class": _text(cls.__name__),
        "module": _text(cls.__module__),
        "text": _text(error),
        "frames": [_place(frame, line) for frame, line in stack],
    }


def _place(frame: FrameType, line: int | None) -> list[str | int]:
    code = frame.f_code
    return [
        *(_text(code.co_filename), line or 0, _text(code.co_name)),
        _text(frame.f_globals.get("__name__", "")),
    ]


def _text(value: object) -> str:
    return text_of(value)[:_MAX_TEXT]


def traceback_of(failure: Failure) -> TracebackType | None:
    """Return the frames of a failure as a traceback; None: there are none, or not in the form that is known here."""
    below = None
    try:
        for file, line, function, module in reversed(failure["frames"]):
            code = _TEMPLATE.replace(
                co_filename=file, co_name=function, co_qualname=function, co_firstlineno=line
            )
            frame = FunctionType(code, {"__name__": module, "__builtins__": {}})().gi_frame
            below = TracebackType(below, frame, 0, line)
    except Exception:  # another release has sent it
        return None
    return below


def _template() -> Iterator[None]:
    yield


#: Of a generator that never runs. Its frame has no other above it, which would be kept with all of its variables.
_TEMPLATE: Final = _template.__code__
