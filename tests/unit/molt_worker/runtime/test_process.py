"""The known state in which a worker begins."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys
{before}
from molt_worker.runtime import process
process.begin()
print({shown})
"""


def state(before: str, shown: str, redirected: str = "") -> str:
    script = SCRIPT.format(before=before, shown=shown)
    command = ["sh", "-c", f'exec "$0" -c "$1" {redirected}', sys.executable, script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", ["SIGCHLD", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGALRM"])
def test_an_ignored_signal_has_its_default_again(name: str) -> None:
    ignored = f"signal.signal(signal.{name}, signal.SIG_IGN)"
    assert state(ignored, f"signal.getsignal(signal.{name}) is signal.SIG_DFL") == "True"


def test_ctrl_c_and_broken_pipes_are_as_python_has_them() -> None:
    shown = (
        "signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGPIPE).name"
    )
    assert state("signal.signal(signal.SIGINT, signal.SIG_IGN)", shown) == "True SIG_IGN"


def test_a_handler_of_this_process_stays() -> None:
    assert state("import faulthandler; faulthandler.register(signal.SIGUSR2)", "1") == "1"
    own = "own = lambda *_: 0; signal.signal(signal.SIGUSR1, own)"
    assert state(own, "signal.getsignal(signal.SIGUSR1) is own") == "True"


def test_no_signal_is_blocked() -> None:
    blocked = "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"
    assert state(blocked, "signal.pthread_sigmask(signal.SIG_BLOCK, ())") == "set()"


def test_inherited_descriptors_are_closed_and_others_stay() -> None:
    opened = 'own = os.open("/dev/null", 0); given = os.open("/dev/null", 0); os.set_inheritable(given, True)'
    assert state(opened, '[os.path.exists(f"/proc/self/fd/{fd}") for fd in (own, given)]') == "[True, False]"


@pytest.mark.parametrize(
    ("limits", "then"), [((64, 9999), 4096), ((64, 128), 128), ((5000, 9999), 5000), ((4096, 4096), 4096)]
)
def test_a_process_may_open_as_many_files_whatever_started_it(limits: tuple[int, int], then: int) -> None:
    given = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, {limits})"
    assert state(given, "resource.getrlimit(resource.RLIMIT_NOFILE)") == str((then, limits[1]))


@pytest.mark.parametrize("closed", ["0", "2"])
def test_a_standard_stream_that_is_closed_is_opened(closed: str) -> None:
    shown = f'os.readlink("/proc/self/fd/{closed}"), sys.stdin is not None, sys.stderr is not None'
    assert state("", shown, f"{closed}>&-") == "/dev/null True True"


def test_a_closed_stdout_takes_no_other_file() -> None:
    told = "sys.stderr.write(os.readlink('/proc/self/fd/1'))"
    script = SCRIPT.format(before="", shown="0") + told
    command = ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, script]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == "/dev/null"
