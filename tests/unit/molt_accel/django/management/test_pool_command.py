"""molt_accel.django.management.pool_command: which command runs, for which pool, and how its failures are told."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management.base import CommandError
from django.test import override_settings

from molt_accel import Config
from molt_accel.django.management.pool_command import PoolCommand
from tests.support.views import _project  # noqa: F401

#: Stands for molt-worker: says what it was given, and exits as told.
_SAYS = "import os, sys; print(sys.argv[1:], os.environ['MOLT_WORKER_MAX_QUEUE']); sys.exit(int(sys.argv[1]))"


@pytest.fixture(autouse=True)
def _settings_count(_project: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("molt_accel.config._django_settings", lambda: settings)


def ran(arguments: list[str], capfd: pytest.CaptureFixture[str], **given: Any) -> str:
    with override_settings(
        MOLT_WORKER_CMD=shlex.join([sys.executable, "-c", _SAYS]), MOLT_WORKER_MAX_QUEUE=7
    ):
        PoolCommand().run(Config.load(), *arguments, **given)
    return capfd.readouterr().out


def test_the_worker_s_command_runs_with_the_pool_s_settings(capfd: pytest.CaptureFixture[str]) -> None:
    assert ran(["0", "--check"], capfd) == "['0', '--check'] 7\n"


@pytest.mark.parametrize(("told", "code"), [("3", 3), ("2", 2)])
def test_its_exit_code_is_the_command_s(told: str, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ran([told], capfd)
    assert caught.value.code == code


def test_in_the_place_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    became: list[object] = []

    def execvpe(program: str, command: list[str], environ: dict[str, str]) -> None:
        became.append(subprocess.run([program, *command[1:]], env=environ, check=False).returncode)

    monkeypatch.setattr(os, "execvpe", execvpe)
    assert ran(["0"], capfd, replace=True).startswith("['0'] 7\n")
    assert became == [0]


def test_what_can_t_be_run_says_what_to_set() -> None:
    with override_settings(MOLT_WORKER_CMD="/no/such/program"):
        config = Config.load()
    for replace in (False, True):
        with pytest.raises(
            CommandError, match=r"can't run /no/such/program: .*; set MOLT_WORKER_CMD"
        ) as caught:
            PoolCommand().run(config, replace=replace)
        assert caught.value.returncode == 2


def test_a_deleted_working_directory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.load()
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(CommandError, match="working directory"):
        PoolCommand().run(config)


def test_pools_are_known_by_name_and_a_wrong_one_is_told() -> None:
    with override_settings(MOLT_POOLS={"reports": {"MAX_QUEUE": 3}}):
        command = PoolCommand()
        parser = command.create_parser("manage.py", "molt_status")
        assert "(here: default, reports)" in " ".join(parser.format_help().split())
        assert command.config_of("reports").max_queue == 3
        with pytest.raises(
            CommandError, match="MOLT_POOLS has no pool 'x'; it has: default, reports"
        ) as caught:
            command.config_of("x")
        assert caught.value.returncode == 2


def test_help_is_there_where_settings_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[str]:
        raise ImportError("a typo in settings")

    monkeypatch.setattr("molt_accel.django.management.pool_command.pool_names", broken)
    assert "(here: default)" in " ".join(PoolCommand().create_parser("manage.py", "x").format_help().split())
