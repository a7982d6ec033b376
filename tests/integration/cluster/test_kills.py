"""Each process killed, or stopped for longer than the silence, at each step of a call's way to another host.

A call has one outcome, and it is true: what ran is read in a ledger that the executor writes. Afterwards the cluster
serves again, and nothing is left of the call.
"""

import asyncio
import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest

from molt_accel import Client, MoltError, MoltWorkerUnavailable
from tests.integration.cluster.conftest import Cluster, Started
from tests.integration.cluster.steps.launcher import ARMED
from tests.integration.cluster.steps.table import SILENCE_S, STEPS, Script, Step
from tests.support.nats_server import PATIENCE_S
from tests.support.processes import wait_until

LAUNCHER = "tests.integration.cluster.steps.launcher"
Armed = tuple[str, str, str]
UNHARMED: Armed = ("", "", "")
TIMEOUT_MS = 30_000
#: Over the server's max_payload, of a megabyte.
LONG_BYTES = 4_000_000
EXECUTORS = 2
HOLDING = (Script.HOLD, Script.CANCEL, Script.LEAVE)
#: How a call may end if somebody dies.
ENDS = {"Ok", "MoltWorkerUnavailable", "MoltBusy", "MoltCancelled", "MoltWorkerCrashed"}
#: Who dies at the step; or it only stops, for longer than the silence.
FATES = ("itself", "stops", "client", "bridge", "pool", "server")
CASES = [
    pytest.param(step, fate, id=f"{step.name}-{fate}") for step in STEPS for fate in FATES if fate != step.who
]


class Stage:
    """A server, a pool, a bridge and one call, on which somebody's fate falls.

    Args:
        cluster: Starts and ends the processes.
        folder: For files.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.go, self.cancel, self.hit = folder / "go", folder / "cancel", folder / "hit"
        self.nonces = map(str, itertools.count())
        self.bridges: list[Started] = []
        self.clients: list[Started] = []
        self.flags: tuple[str, ...] = ()

    def start_pool(self) -> None:
        self.pool = self.cluster.pool(
            "pool", "--exports", "tests.integration.cluster.steps.entries", *self.flags
        )

    def start_bridge(self, armed: Armed = UNHARMED) -> Started:
        command = (sys.executable, "-m", LAUNCHER, *armed)
        bridge = self.cluster._start(
            "bridge", *command, "bridge", "--name", "pool", "--nats", self.cluster.url
        )
        bridge.says("bridge_ready")
        self.bridges.append(bridge)
        return bridge

    def start_client(self, script: Script, *, armed: Armed = UNHARMED, idempotent: bool = False) -> str:
        """Have a process make the call. Returns its nonce."""
        nonce = next(self.nonces)
        order = {
            "nats": self.cluster.url,
            "payload": {
                "nonce": nonce,
                "ledger": str(self.ledger),
                "go": str(self.go) if script in HOLDING else "",
                "answer_bytes": LONG_BYTES if script is Script.ANSWER else 0,
            },
            "request_bytes": LONG_BYTES if script is Script.REQUEST else 0,
            "timeout_ms": TIMEOUT_MS,
            "idempotent": idempotent,
            "cancel": str(self.cancel),
        }
        command = (sys.executable, "-m", LAUNCHER, *armed, "client", json.dumps(order))
        self.clients.append(self.cluster._start("client", *command))
        return nonce

    def armed(self, step: Step, number: int) -> Armed:
        """What the launcher is told of a step."""
        return (step.name, str(int(number)), str(self.hit))

    def ran(self, nonce: str) -> int:
        return self.ledger.read_text().split().count(nonce)

    def process(self, who: str) -> subprocess.Popen[bytes]:
        """The first of its kind."""
        if who == "server":
            return self.cluster.nats.process
        started = {"client": self.clients, "bridge": self.bridges, "pool": [self.pool]}[who]
        return started[0].process

    def outcome(self, client: Started) -> dict[str, Any] | None:
        """What a client was told; None: it is dead. It is told one thing."""
        code = client.process.wait(PATIENCE_S)
        lines = [line for line in client.log.read_text().splitlines() if line.startswith("{")]
        assert len(lines) <= 1
        if code == -signal.SIGKILL:
            return json.loads(lines[0]) if lines else None
        assert code == 0, client.log.read_text()
        found: dict[str, Any] = json.loads(lines[0])
        return found

    def heal(self) -> None:
        """Start again what has died."""
        if self.cluster.nats.process.poll() is not None:
            self.cluster.nats.start()
        if self.pool.process.poll() is not None:
            self.start_pool()
        for bridge in list(self.bridges):
            if bridge.process.poll() is not None:
                self.bridges.remove(bridge)
        if not self.bridges:
            self.start_bridge()

    def serves(self) -> None:
        """Wait until calls succeed again, and nothing is left of others."""
        with Client(transport="nats", nats_url=self.cluster.url) as client:

            def answers() -> bool:
                nonce = next(self.nonces)
                order = {"nonce": nonce, "ledger": str(self.ledger), "go": "", "answer_bytes": 0}
                with contextlib.suppress(MoltError):
                    return bool(client.call("note", order, timeout_ms=TIMEOUT_MS)["nonce"] == nonce)
                return False

            wait_until(answers, PATIENCE_S)
        wait_until(lambda: self.in_flight() == 0, PATIENCE_S)
        wait_until(self.is_idle, PATIENCE_S)

    def in_flight(self) -> int | None:
        """How many requests the bridges have, by what they tell NATS; None: they tell nothing."""

        async def ask() -> int | None:
            client = await nats.connect(self.cluster.url)
            try:
                answer = await client.request("$SRV.STATS.pool", b"", timeout=2)
            except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
                return None
            finally:
                await client.close()
            return int(sum(each["data"]["in_flight"] for each in json.loads(answer.data)["endpoints"]))

        return asyncio.run(ask())

    def is_idle(self) -> bool:
        """Whether the pool's places are free and its executors wait."""
        command = [sys.executable, "-m", "molt_worker", "status", "--name", "pool", "--json"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        if said.returncode:
            return False
        report = json.loads(said.stdout)
        states = [each["state"] for each in report["executors"]]
        return (report["in_flight"], report["queue"]["depth"], states) == (0, 0, ["idle"] * EXECUTORS)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Have callers of this host take all executors. They end with the fate of the pool."""
        with (
            Client(worker_name="pool", transport="shm", autostart=False) as local,
            ThreadPoolExecutor() as threads,
        ):
            nonces = [next(self.nonces) for _ in range(EXECUTORS)]
            for nonce in nonces:
                order = {"nonce": nonce, "ledger": str(self.ledger), "go": str(self.go), "answer_bytes": 0}
                threads.submit(local.call, "note", order, timeout_ms=TIMEOUT_MS)
            wait_until(lambda: all(self.ran(nonce) for nonce in nonces), PATIENCE_S)
            try:
                yield
            finally:
                self.go.touch()


@pytest.fixture
def stage(cluster: Cluster, tmp_path: Path) -> Iterator[Stage]:
    cluster.nats.start()
    made = Stage(cluster, tmp_path)
    yield made
    made.go.touch()


def judge(outcome: dict[str, Any] | None, nonce: str, ran: int) -> None:
    """Check that a client was told the truth."""
    assert ran <= 1, "it ran twice"
    if outcome is None:
        return
    assert outcome["kind"] in ENDS, outcome
    if outcome["kind"] == "Ok":
        assert (outcome["nonce"], ran) == (nonce, 1)
    elif ran:
        assert outcome["kind"] != "MoltBusy", outcome
        assert outcome["may_have_run"] is not False, outcome


def test_every_step_can_be_armed() -> None:
    assert [step.name for step in STEPS] == list(ARMED)


@pytest.mark.sample(3)
@pytest.mark.parametrize(("step", "fate"), CASES)
def test_whoever_dies_at_any_step_the_caller_is_told_the_truth_and_nothing_is_left(
    stage: Stage, step: Step, fate: str
) -> None:
    armed = stage.armed(step, signal.SIGKILL if fate == "itself" else signal.SIGSTOP)
    if step.script is Script.BUSY:
        stage.flags = ("--max-queue", "0")
    stage.start_pool()
    stage.start_bridge(armed if step.who == "bridge" else UNHARMED)
    with stage.full() if step.script is Script.BUSY else contextlib.nullcontext():
        nonce = stage.start_client(step.script, armed=armed if step.who == "client" else UNHARMED)
        client = stage.clients[0]
        if step.script in (Script.CANCEL, Script.LEAVE):
            wait_until(lambda: stage.ran(nonce), PATIENCE_S)
            if step.script is Script.CANCEL:
                stage.cancel.touch()
            else:
                stage.process("bridge").send_signal(signal.SIGTERM)
        wait_until(lambda: stage.hit.exists() and stage.hit.read_text(), PATIENCE_S)
        victim = stage.process(step.who)
        if fate == "itself":
            victim.wait(PATIENCE_S)
        else:
            wait_until(lambda: status_of(victim.pid) == "T", PATIENCE_S)
            if fate == "stops":
                until = time.monotonic() + 2 * SILENCE_S
                wait_until(lambda: time.monotonic() > until)
            else:
                stage.process(fate).kill()
                stage.process(fate).wait(PATIENCE_S)
            victim.send_signal(signal.SIGCONT)
        if step.script is not Script.CANCEL:  # that one is not answered; it must be stopped
            stage.go.touch()
        outcome = stage.outcome(client)
    judge(outcome, nonce, stage.ran(nonce))
    if fate == "stops" and step.who == "client" and step.script not in (Script.CANCEL, Script.BUSY):
        assert outcome is not None
        assert outcome["kind"] == "Ok", outcome  # nobody else has lost anything
    if step.script is Script.LEAVE:
        assert stage.process("bridge").wait(PATIENCE_S) == (
            -signal.SIGKILL if fate in ("itself", "bridge") else 0
        )
    stage.heal()
    stage.go.touch()
    stage.serves()
    judge(outcome, nonce, stage.ran(nonce))  # it may have run later
    assert not [each.log.read_text() for each in stage.cluster.started if "Traceback" in each.log.read_text()]


def test_an_idempotent_call_is_sent_to_another_host(stage: Stage) -> None:
    """One bridge dies with it, whichever got it. The other one's answer is the call's."""
    step = next(each for each in STEPS if each.name == "bridge.given")
    stage.start_pool()
    for _ in range(2):
        stage.start_bridge(stage.armed(step, signal.SIGKILL))
    nonce = stage.start_client(step.script, idempotent=True)
    outcome = stage.outcome(stage.clients[0])
    assert outcome == {"kind": "Ok", "nonce": nonce}
    assert stage.hit.exists()
    assert 1 <= stage.ran(nonce) <= 2
    stage.heal()
    stage.serves()


def test_a_bridge_that_leaves_takes_the_other_pieces_of_a_request(stage: Stage) -> None:
    step = next(each for each in STEPS if each.name == "client.mid_request")
    stage.start_pool()
    bridge = stage.start_bridge()
    nonce = stage.start_client(step.script, armed=stage.armed(step, signal.SIGSTOP))
    client = stage.clients[0]
    wait_until(lambda: stage.hit.exists() and status_of(client.process.pid) == "T", PATIENCE_S)
    bridge.process.send_signal(signal.SIGTERM)
    with Client(transport="nats", nats_url=stage.cluster.url) as other:
        wait_until(lambda: nobody_serves(other), PATIENCE_S)
    client.process.send_signal(signal.SIGCONT)
    assert stage.outcome(client) == {"kind": "Ok", "nonce": nonce}
    assert bridge.process.wait(PATIENCE_S) == 0


def nobody_serves(client: Client) -> bool:
    try:
        client.ping(timeout_ms=TIMEOUT_MS)
    except MoltWorkerUnavailable:
        return True
    return False


def status_of(pid: int) -> str:
    """The state of a process, as /proc has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
