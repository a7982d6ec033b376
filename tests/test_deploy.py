"""The files in deploy/: they are valid, and the commands in them are the package's."""

import configparser
import contextlib
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from molt_worker.bridge.survey import total_of
from molt_worker.cli import bridge, serve
from tests.support import ROOT
from tests.support.nats_server import program
from tests.support.processes import wait_until

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
    subprocess.run(["bash", "-n", "-c", script.replace("$$", "$")], check=True)


#: In the place of molt-worker: says what befalls it, and runs until it is told to stop.
STAND_IN = """#!/bin/sh
case $1 in bridge) name=bridge ;; *) name=worker ;; esac
trap 'sleep 0.2; echo $name ended; exit' TERM
echo $$ > "$FOLDER/new.$name" && mv "$FOLDER/new.$name" "$FOLDER/$name"
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize("ends", ["container", "worker", "bridge"])
def test_a_container_of_the_compose_file_ends_in_order(tmp_path: Path, ends: str) -> None:
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    stand_in = tmp_path / "molt-worker"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    environ = {**os.environ, "FOLDER": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [word.replace("$$", "$") for word in services["pool"]["command"]]
    log = tmp_path / "log"
    with log.open("wb") as out:
        # A session of its own: what is left of it is ended as a container's processes are.
        container = subprocess.Popen(command, env=environ, stdout=out, stderr=out, start_new_session=True)
    files = {name: tmp_path / name for name in ("worker", "bridge")}
    try:
        wait_until(lambda: all(each.exists() for each in files.values()))
        assert container.poll() is None, log.read_text()
        os.kill(int(files[ends].read_text()) if ends in files else container.pid, signal.SIGTERM)
        container.wait(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(container.pid, signal.SIGKILL)
        container.wait()
    said = [line for line in log.read_text().splitlines() if line.endswith(" ended")]
    assert said == (["bridge ended", "worker ended"] if ends == "container" else [f"{ends} ended"])


def read(path: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / path).read_text()))


def test_the_pods_start_what_there_is() -> None:
    (deployment,) = read("kubernetes/shop.yaml")
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["containers"]] == ["pool", "bridge"]
    for each in pod["containers"]:
        check_command([str(word) for word in each["command"]])
        named = {entry["name"]: entry["value"] for entry in each["env"]}
        assert named["MOLT_RUNTIME_DIR"].startswith(each["volumeMounts"][0]["mountPath"])
    bridge = pod["containers"][1]
    (port,) = bridge["ports"]
    address = bridge["command"][bridge["command"].index("--metrics") + 1]
    assert address == f"0.0.0.0:{port['containerPort']}"


#: What KEDA has in these places: its ScaledObject (keda.sh/v1alpha1), and its scaler `metrics-api`.
KEDA = {
    "spec": {
        *("scaleTargetRef", "pollingInterval", "initialCooldownPeriod", "cooldownPeriod", "idleReplicaCount"),
        *("minReplicaCount", "maxReplicaCount", "fallback", "advanced", "triggers"),
    },
    "fallback": {"failureThreshold", "replicas", "behavior"},
    "trigger": {"type", "name", "metadata", "authenticationRef", "metricType", "useCachedMetrics"},
    "metadata": {
        *("url", "valueLocation", "targetValue", "activationTargetValue", "format", "unsafeSsl"),
        *("aggregateFromKubeServiceEndpoints", "aggregationType"),
    },
}


def test_scaling_goes_by_what_a_bridge_tells() -> None:
    (deployment,) = read("kubernetes/shop.yaml")
    service, scaled = read("kubernetes/scaling.yaml")
    pod = deployment["spec"]["template"]
    (port,) = service["spec"]["ports"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert port["targetPort"] in [each["name"] for each in pod["spec"]["containers"][1]["ports"]]
    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    spec = scaled["spec"]
    assert spec["scaleTargetRef"] == {"name": deployment["metadata"]["name"]}
    assert set(spec) <= KEDA["spec"]
    assert set(spec["fallback"]) <= KEDA["fallback"]
    assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    told = total_of([], "")
    for trigger in spec["triggers"]:
        assert set(trigger) <= KEDA["trigger"]
        assert (trigger["type"], trigger["metricType"]) == ("metrics-api", "AverageValue")
        metadata = trigger["metadata"]
        assert set(metadata) <= KEDA["metadata"]
        assert all(type(value) is str for value in metadata.values())  # a map of texts to texts
        assert metadata["url"] == f"http://{service['metadata']['name']}.default.svc:{port['port']}/cluster"
        assert metadata["valueLocation"] in told
        assert float(metadata["targetValue"]) > 0


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
