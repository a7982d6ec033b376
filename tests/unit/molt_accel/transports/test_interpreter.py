"""molt_accel.transports.interpreter: which Python a worker is started with, whatever program this is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from molt_accel.transports import interpreter

VERSIONED = os.path.join(sys.prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    interpreter._find.cache_clear()


def test_a_plain_interpreter_is_itself_and_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_serves", None)
    assert interpreter.find() == sys.executable


@pytest.mark.parametrize(
    "executable", ["/usr/local/bin/uwsgi", "", None, "/elsewhere/bin/python3", "/opt/app/molt-app"]
)
def test_a_program_that_is_no_interpreter_of_the_environment_finds_that_one(
    executable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uWSGI, mod_wsgi (which may show the system's Python), and programs that embed Python."""
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "base_prefix", "/elsewhere/base")
    assert interpreter.find() == VERSIONED


def test_an_interpreter_of_another_version_or_environment_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nprintf '{tmp_path}\\n2\\n7\\n'\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", "/usr/local/bin/uwsgi")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert interpreter.find() is None
    python.write_text(
        f"#!/bin/sh\nprintf '{tmp_path}\\n%s\\n%s\\n' {sys.version_info[0]} {sys.version_info[1]}\n"
    )
    interpreter._find.cache_clear()
    assert interpreter.find() == str(python)


def test_a_frozen_program_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert interpreter.find() is None


def test_a_client_in_a_program_of_another_name_gets_its_worker(tmp_path: Path) -> None:
    program = (
        "import sys; sys.executable = '/usr/local/bin/uwsgi'\n"
        "from molt_accel import Client\n"
        "with Client(transport='stdio', executors=1) as client:\n    print(client.call('echo', 5))\n"
    )
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.returncode) == ("5\n", 0), done.stderr
