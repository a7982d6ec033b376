"""The exports of a worker that was given none."""

import os
import platform

import pytest

from molt_worker.entrypoints import builtin


@pytest.mark.parametrize("payload", [None, 7, {"any": [b"thing"]}])
def test_health_takes_anything_and_echo_gives_it_back(payload: object) -> None:
    assert builtin.health(payload) == {"ok": True, "pid": os.getpid(), "python": platform.python_version()}
    assert builtin.echo(payload) is payload
