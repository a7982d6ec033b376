"""Entrypoints of the soak test: what calls ask for, and the ways to die or to hang on."""

import os
import time
from typing import Any

from molt_worker import InvalidInput, current_request, export
from tests.support.entrypoints import echo, echo_json, echo_raw, sleep, sleep_through_everything

__all__ = ["check_loop", "die", "echo", "echo_json", "echo_raw", "fail", "refuse", "sleep", "stubborn"]

#: The exit code of `die`, which its caller has to be told.
DEATH = 7


@export
def check_loop(payload: Any) -> None:
    """Runs until it is told to stop."""
    while True:
        current_request().check()
        time.sleep(0.0005)


@export
def stubborn(payload: Any) -> None:
    """Doesn't stop for anything but SIGKILL."""
    sleep_through_everything()


@export
def refuse(payload: Any) -> None:
    """Refuses its input."""
    raise InvalidInput("it is refused")


@export
def fail(payload: Any) -> None:
    """Raises."""
    raise ValueError("a bug")


@export
def die(payload: Any) -> None:
    """Ends its executor."""
    os._exit(DEATH)
