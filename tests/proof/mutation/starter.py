"""Runs pytest again and again, each time in a forked child: importing pytest and the like takes longer than most tests.

A line of JSON on stdin has the arguments, the environment, and the file for what the run prints. The answer on stdout
is the pid of the child at its start, then its exit code. Nothing that can have a fault in it is imported here.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback

_PRELOADED = (
    *(
        "pytest",
        "pytest_timeout",
        "xdist.plugin",
        "hypothesis",
        "hypothesis.strategies",
        "_hypothesis_pytestplugin",
    ),
    *(
        "asyncio",
        "multiprocessing",
        "unittest.mock",
        "msgspec",
        "msgpack",
        "psutil",
        "posix_ipc",
        "rich.progress",
    ),
    *("asgiref.sync", "django.http", "django.test", "django.core.handlers.asgi"),
)


#: The exit code where pytest itself broke: that says nothing of the tests.
FAILED = 70


def _run(asked: dict[str, object]) -> int:
    import pytest

    os.setsid()
    os.environ.clear()
    os.environ.update(asked["environ"])  # type: ignore[call-overload]
    with open(str(asked["output"]), "wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return int(pytest.main(asked["arguments"]))  # type: ignore[arg-type]


def main() -> None:
    sys.path.insert(0, os.getcwd())
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert not [name for name in sys.modules if name.startswith("molt_")]
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            code = FAILED
            try:
                code = _run(json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
