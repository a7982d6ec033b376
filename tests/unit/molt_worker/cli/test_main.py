"""molt_worker.cli.main: the console script, and which command gets its arguments."""

import os
import subprocess
import sys

import pytest

from molt_accel import __version__
from molt_worker.cli import main as cli
from tests.support.errors import raised
from tests.unit.molt_worker.cli.test_serve import notice


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert raised(SystemExit, cli.main, ["--version"]).code == 0
    assert capsys.readouterr().out == f"molt-worker {__version__}\n"


def test_the_installed_script_is_the_same_command() -> None:
    script = os.path.join(os.path.dirname(sys.executable), "molt-worker")
    done = subprocess.run([script, "--version"], capture_output=True, timeout=60, check=True)
    assert done.stdout.decode() == f"molt-worker {__version__}\n"


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-"])
def test_a_bad_manifest_is_code_2_whatever_descriptor_is_closed(closed: str) -> None:
    command = f"exec {sys.executable} -m molt_worker --stdio --exports missing.json {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    what = "missing.json: can't be read: No such file or directory"
    assert done.stderr.decode() == ("" if closed == "2>&-" else f"molt-worker: {what}\n")
    if closed != "1>&-":
        assert notice(done.stdout)["detail"] == what


def test_the_worker_s_help_mentions_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert "molt-worker status [options]" in shown
    assert "see the --help of each" in shown
