"""The files in deploy/: they are valid, and the commands in them are the package's."""

import configparser
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from molt_worker.cli import bridge, serve
from tests.support import ROOT
from tests.support.nats_server import program

DEPLOY = ROOT / "deploy"
yaml: Any = pytest.importorskip("yaml")


def check_command(words: list[str]) -> None:
    """See that a command line is one of molt-worker. Starts nothing."""
    assert Path(words[0]).name == "molt-worker"
    if words[1] == "bridge":
        bridge._parser().parse_args(words[2:])
    else:
        serve._parser().parse_args(words[1:])


def commands_in(text: str) -> list[list[str]]:
    """The lines of a shell script that start molt-worker."""
    lines = (line.partition(" &")[0].strip() for line in text.splitlines())
    return [shlex.split(line) for line in lines if line.startswith("molt-worker")]


@pytest.mark.parametrize("path", sorted((DEPLOY / "systemd").iterdir()), ids=lambda path: path.name)
def test_units_start_what_there_is(path: Path) -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    assert set(unit) == {"DEFAULT", "Unit", "Service", "Install"}
    check_command(shlex.split(unit["Service"]["ExecStart"]))


def test_the_compose_file_starts_what_there_is() -> None:
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    assert set(services) == {"nats", "pool"}
    script = services["pool"]["command"][-1]
    found = commands_in(script)
    assert len(found) == 2
    for each in found:
        check_command(each)
    subprocess.run(["sh", "-n", "-c", script.replace("$$", "$")], check=True)


def test_the_pods_start_what_there_is() -> None:
    (deployment,) = yaml.safe_load_all((DEPLOY / "kubernetes" / "shop.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["containers"]] == ["pool", "bridge"]
    for each in pod["containers"]:
        check_command([str(word) for word in each["command"]])
        named = {entry["name"]: entry["value"] for entry in each["env"]}
        assert named["MOLT_RUNTIME_DIR"].startswith(each["volumeMounts"][0]["mountPath"])


def test_the_server_s_configuration_is_valid() -> None:
    environ = {**os.environ, "WEB_PASSWORD": "w", "BRIDGE_PASSWORD": "b"}
    done = subprocess.run(
        [program(), "-t", "-c", str(DEPLOY / "nats" / "cluster.conf")],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
