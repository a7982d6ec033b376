"""One run of one cell: a pool and its clients, somebody who dies at a point, and what has to be true afterwards."""

from __future__ import annotations

import contextlib
import enum
import os
import re
import signal
import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from molt_accel.ipc import control as pool_control
from molt_accel.ipc.shm.attach import connect, observe
from molt_accel.ipc.shm.layout import ChannelState, state_of
from tests.support.processes import logged_worker
from tests.system.crash import matrix_entries
from tests.system.crash.failpoints.build import environ
from tests.system.crash.failpoints.control import Control, Hit
from tests.system.crash.failpoints.table import POINTS, Actor, Point, Script
from tests.system.crash.matrix_client import PATIENCE_S, ClientProcess, Gone, Outcome, kinds

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import ArenaView

EXECUTORS: Final = 2
_NAME: Final = "pool"
_CONFIG: Final[dict[str, Any]] = {
    "transport": "shm", "worker_name": _NAME, "exports": "tests.system.crash.matrix_entries",
    "executors": EXECUTORS, "arena_mb": 4, "grace_ms": 30, "linger_ms": 0, "log_level": "warning",
}  # fmt: skip
#: How long somebody stays stopped, by repetition: not at all, for a moment, for longer than any park lasts.
_STOPPED_S: Final = (0.0, 0.02, 0.13)
#: More than the clients have at a time, with one that was just killed. The lowest are granted first.
_MOST_CHANNELS: Final = 80
#: Bells come to a client as its event loops need them: those that it may have, and pipes of the runner's.
_MOST_PIPES: Final = 12
#: How long after a call's end somebody may still come to the point that it leads to.
_LATER_S: Final = 2.0
#: What may never stand in a worker's log.
_BUGS: Final = re.compile(r"supervisor_bug|executor_failed|forkserver_failed|broke_protocol|^Traceback", re.M)


class Action(enum.Enum):
    """What befalls who passes a point: the signal it sends itself, and the one that is sent to it later."""

    KILL = ("kill", signal.SIGKILL, None)
    STOP_CONT = ("stop-cont", signal.SIGSTOP, signal.SIGCONT)
    STOP_KILL = ("stop-kill", signal.SIGSTOP, signal.SIGKILL)
    SEGV = ("segv", signal.SIGSEGV, None)
    TERM = ("term", signal.SIGTERM, None)

    def __init__(self, label: str, first: signal.Signals, then: signal.Signals | None) -> None:
        self.label = label
        self.first = first
        self.then = then


class Load(enum.Enum):
    """What the pool has to do besides."""

    IDLE = "idle"
    SATURATED = "saturated"


@dataclass(frozen=True, slots=True)
class Cell:
    """A point, who passes it, what happens there, and the load."""

    point: Point
    actor: Actor
    action: Action
    load: Load

    def __str__(self) -> str:
        return f"{self.actor.value}:{self.point.name}:{self.action.label}:{self.load.value}"

    @property
    def senseless(self) -> str:
        """Why there is nothing to run; empty: there is."""
        return self.point.not_saturated if self.load is Load.SATURATED else ""

    @property
    def kills(self) -> bool:
        """Whether who passes the point dies of it at once."""
        if self.action is Action.TERM:
            return self.actor is Actor.CLIENT or self.point.name in _TERM_ENDS
        return self.action is not Action.STOP_CONT


#: Where a supervisor doesn't finish what it has: before it runs SIGTERM is not handled, and the second one is final.
_TERM_ENDS: Final = {"supervisor.arena", "supervisor.bound", "supervisor.listening", "supervisor.leaving"}

CELLS: Final = tuple(
    Cell(point, actor, action, load)
    for point in POINTS
    for actor in point.actors
    for action in Action
    for load in Load
)

_NORMAL: Final = {
    Script.CANCEL: "MoltCancelled",
    Script.LATE: "MoltTimeout",
    Script.STUCK: "MoltTimeout",
    Script.CRASH: "MoltWorkerCrashed",
}
#: What a death of somebody may make of a call, one of these, and of how many that are not the script's.
_BY_DEATH: Final = {
    Actor.CLIENT: ((), 0),
    Actor.EXECUTOR: (("MoltWorkerCrashed",), 1),
    Actor.FORKSERVER: (("MoltWorkerCrashed",), EXECUTORS),
    Actor.SUPERVISOR: (("MoltWorkerUnavailable", "MoltStartFailed"), EXECUTORS + 1),
}


@dataclass(slots=True)
class Result:
    """What came of a run."""

    cell: Cell
    failure: str = ""  #: empty: it was passed
    #: From a death to the answers of the calls that it ended, in ms.
    answers_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0


class Stage:
    """A pool with a client that keeps its calls and one that may lose them; used for one cell after the other.

    Args:
        context: Where clients are forked, with failpoints.
        library: The native core with failpoints.
    """

    def __init__(self, context: ForkServerContext, library: Path) -> None:
        self._context = context
        self._folder = tempfile.TemporaryDirectory(prefix="molt-matrix-")
        folder = Path(self._folder.name)
        self._runtime = folder / "run"
        self._log = folder / "log"
        self._log.touch()
        self._logged = 0
        ledger = folder / "ledger"
        ledger.write_bytes(bytes(matrix_entries.LEDGER_BYTES))
        self._ledger = ledger.open("r+b")
        names = list(dict.fromkeys(point.name for point in POINTS))
        self._control = Control(folder / "points", names)
        self._environ = {
            **environ(library, folder / "points"),
            "MOLT_MATRIX_LEDGER": str(ledger),
            "MOLT_RUNTIME_DIR": str(self._runtime),
            "MOLT_WORKER_CMD": logged_worker(Path(self._log)),
        }
        self._view: ArenaView | None = None
        self._view_socket: socket.socket | None = None
        self._supervisor = 0
        self._supervisors: set[int] = set()
        self._family: set[int] = set()
        self._fds: dict[int, int] = {}
        self._bystander = self._new_client(0)
        self._victim = self._new_client(1)
        self._rest()

    def _new_client(self, index: int) -> ClientProcess:
        return ClientProcess(self._context, self._environ, _CONFIG, index)

    # -- a run ------------------------------------------------------------------------------------------
    def run(self, cell: Cell, repetition: int) -> Result:
        """Run a cell once. After a failure the stage is good for nothing but `destroy`."""
        result = Result(cell)
        began = time.monotonic()
        try:
            self._run(cell, repetition, result)
            self._rest()
        except (AssertionError, TimeoutError, Gone) as exc:
            result.failure = f"{type(exc).__name__}: {exc}\n{self._log.read_text()[self._logged :][-3000:]}"
        result.seconds = time.monotonic() - began
        return result

    def _run(self, cell: Cell, repetition: int, result: Result) -> None:
        point, script = cell.point, cell.point.script
        if script is Script.START:
            self._stop_pool()
        if cell.load is Load.SATURATED:
            self._bystander.begin("load")
            if script is not Script.START:
                self._bystander.result()
        self._control.arm(point.name, cell.action.first, _nth(cell, repetition), self._who(cell, repetition))
        hit, outcomes = self._provoke_until_hit(point, awaited=repetition % 2 == 1)
        died_ns = self._befall(cell, hit, repetition)
        dies = cell.kills
        if dies:
            _wait_for(lambda: _dead(hit.pid), f"{hit.pid} doesn't die")
        outcomes += self._outcomes_of_victim(cell, dies)
        self._control.disarm()
        if cell.load is Load.SATURATED and script is Script.START:
            self._bystander.result()
        others: list[Outcome] = self._bystander.do("pause")
        self._judge(cell, outcomes, others)
        if dies and cell.actor is not Actor.CLIENT:
            ended, _ = _BY_DEATH[cell.actor]
            result.answers_ms = [
                (each.end_ns - died_ns) / 1e6
                for each in outcomes + others
                if each.kind in ended and each.start_ns < died_ns < each.end_ns
            ]

    def _who(self, cell: Cell, repetition: int) -> int:
        """The process whose passages count; 0: it is clear from the point."""
        if cell.actor is Actor.CLIENT:
            return self._victim.pid
        if cell.point.name.startswith("doorbell."):
            pids: list[int] = self._bystander.do("ping")["executors"]["pids"]
            return pids[repetition % len(pids)] if cell.load is Load.SATURATED else pids[0]
        return 0

    def _provoke_until_hit(self, point: Point, *, awaited: bool) -> tuple[Hit, list[Outcome]]:
        """Get somebody to the point. On a busy machine a script may miss it; then it is tried again.

        Returns:
            Who was hit, and the outcomes of scripts that got nobody there.
        """
        missed: list[Outcome] = []
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            self._provoke(point.script, awaited=awaited)
            _first(lambda: self._control.hit(point.name) or self._victim.ready, PATIENCE_S)
            hit = _first(lambda: self._control.hit(point.name), _LATER_S)
            if hit:
                return hit, missed
            missed += self._victim.result()
        raise AssertionError(f"nobody passes {point.name}")

    def _provoke(self, script: Script, *, awaited: bool) -> None:
        if script in (Script.RELOAD, Script.DRAIN):
            os.kill(self._supervisor, signal.SIGHUP if script is Script.RELOAD else signal.SIGTERM)
        self._victim.begin("script", script, awaited)
        if script is Script.DIE:
            _wait_for(lambda: self._victim_runs(), "its request doesn't run")
            self._victim.kill()

    def _victim_runs(self) -> bool:
        self._ledger.seek(0)
        return any(self._ledger.read()[1::2])

    def _befall(self, cell: Cell, hit: Hit, repetition: int) -> int:
        """Go on where the process has stopped; when it died, if it did."""
        then = cell.action.then
        if then is None:
            return hit.ns
        _wait_for(lambda: _status(hit.pid) in "TXZ", f"{hit.pid} doesn't stop")
        if cell.point.script is not Script.START:
            assert self._bystander.do("progress"), f"nobody is served while {cell.actor.value} is stopped"
        time.sleep(_STOPPED_S[repetition % len(_STOPPED_S)])
        died_ns = time.monotonic_ns()
        with contextlib.suppress(ProcessLookupError):  # its request was overdue, and it was killed for that
            os.kill(hit.pid, then)
        return died_ns

    def _outcomes_of_victim(self, cell: Cell, dies: bool) -> list[Outcome]:
        if cell.point.script is Script.DIE:
            return []
        outcomes: list[Outcome] = []
        if not dies or cell.actor is not Actor.CLIENT:
            outcomes += self._victim.result()
            return outcomes
        with contextlib.suppress(Gone):  # unless it was hit after its calls, on another thread
            outcomes += self._victim.result()
        self._victim.kill()
        return outcomes

    def _judge(self, cell: Cell, outcomes: list[Outcome], others: list[Outcome]) -> None:
        by_death, most = _BY_DEATH[cell.actor] if cell.kills else ((), 0)
        allowed = {_NORMAL.get(cell.point.script, "Ok"), *by_death}
        if "MoltTimeout" in allowed and cell.load is Load.SATURATED:
            allowed.add("MoltBusy")  # what is queued would let the deadline pass
        assert kinds(outcomes) <= allowed, f"the script's calls ended with {kinds(outcomes)}"
        ended = Counter(each.kind for each in others)
        assert set(ended) <= {"Ok", *by_death}, f"calls of the other client ended with {dict(ended)}"
        if cell.point.script is not Script.START:  # else it is told again and again that there is no pool
            assert sum(ended[kind] for kind in by_death) <= most, (
                f"too many of the other client's calls ended with {dict(ended)}"
            )

    # -- between runs -----------------------------------------------------------------------------------
    def _stop_pool(self) -> None:
        os.kill(self._supervisor, signal.SIGTERM)
        _wait_for(lambda: _dead(self._supervisor), "the pool doesn't stop")

    def _rest(self) -> None:
        """Wait for the state that runs begin in: the pool is whole, nothing is left over, both clients are there."""
        if _dead(self._victim.pid):
            self._victim = self._new_client(1)
        for client in (self._victim, self._bystander):
            errors = client.do("settle")
            assert set(errors) <= {"MoltWorkerUnavailable", "MoltStartFailed", "MoltWorkerCrashed"}, errors
        wrong = ""
        until = time.monotonic() + PATIENCE_S
        while (wrong := next(self._left_over(), "")) and time.monotonic() < until:
            time.sleep(0.002)
        assert not wrong, f"the pool is not whole again: {wrong}"
        self._ledger.seek(0)
        ran = self._ledger.read()
        assert max(ran) <= 1, "a request was run twice"
        self._ledger.seek(0)
        self._ledger.write(bytes(len(ran)))
        self._ledger.flush()
        text = self._log.read_text()
        assert not _BUGS.search(text, self._logged), "a bug is logged"
        self._logged = len(text)

    def _left_over(self) -> Iterator[str]:
        """What is not as it should be; one thing after the other, the cheapest first."""
        report: dict[str, Any] = self._bystander.do("ping")
        pool = report["executors"]
        pids = set(pool["pids"])
        if (pool["idle"], pool["busy"], pool["starting"], len(pids)) != (EXECUTORS, 0, 0, EXECUTORS):
            yield f"executors: {pool}"
        if report["clients"] < 2:
            self._victim.do("settle")  # it was served once more by a pool that was about to leave
        if (report["queue_depth"], report["in_flight"], report["clients"]) != (0, 0, 2):
            yield f"report: {report}"
        if report["pid"] != self._supervisor:
            self._look_at(report["pid"])
        assert self._view is not None
        states = [state_of(self._view.word(channel)) for channel in range(self._view.in_use)]
        if busy := {channel: state for channel, state in enumerate(states) if state is not ChannelState.IDLE}:
            for client in (self._victim, self._bystander):
                client.do("settle")  # what was given up and failed later is cleared by its client's next call
            yield f"channels: {busy}"
        if len(states) > _MOST_CHANNELS:
            yield f"{len(states)} channels were granted: some are not taken back"
        if taken := [slot for slot in range(self._view.slots) if self._view.holds(slot)]:
            yield f"places of a limited entrypoint that slots {taken} take"
        forkservers = _children(self._supervisor)
        if len(forkservers) != 1 or _children(min(forkservers)) != pids:
            yield f"fork servers: {forkservers}"
        family = {self._supervisor, *forkservers, *pids}
        stayed = {pid for pid in self._family - family if not _dead(pid)}
        if stayed:
            yield f"processes that stay: {stayed}"
        clients = {client.pid: client for client in (self._bystander, self._victim)}
        if zombies := [
            pid for each in family | clients.keys() for pid in _children(each) if _status(pid) == "Z"
        ]:
            yield f"zombies: {zombies}"
        if any(_children(each) for each in clients):
            yield "a client has children"
        if any(_descriptors(each) - _descriptors(each, but="pipe:") > _MOST_PIPES for each in clients):
            yield "a client has more bells than it may have"
        for client in clients.values():
            if _arenas(client.pid) > 1:
                client.do("collect")  # what waits for that is not left over
                yield "a client has two arenas"
        survivors = {self._supervisor, *forkservers, *clients}
        for pid in survivors:
            count = _descriptors(pid, but="pipe:" if pid in clients else None)
            if count > self._fds.setdefault(pid, count):
                yield f"process {pid} has {count} descriptors, and had {self._fds[pid]}"
        files = set(os.listdir(self._runtime))
        if files != {f"{_NAME}.{kind}" for kind in ("sock", "lock", "starter")}:
            yield f"files: {files}"
        self._family = family
        self._fds = {pid: count for pid, count in self._fds.items() if pid in survivors}

    def _look_at(self, supervisor: int) -> None:
        self._look_away()
        sock = connect(pool_control.socket_path(str(self._runtime), _NAME))
        assert sock is not None
        self._view_socket, self._view = sock, observe(sock)
        self._supervisor = supervisor
        self._supervisors.add(supervisor)

    def _look_away(self) -> None:
        self._view = None
        if self._view_socket is not None:
            self._view_socket.close()

    # -- the end ----------------------------------------------------------------------------------------
    def close(self) -> None:
        """Have the clients leave, and see to it that nothing stays. Raises AssertionError if something does."""
        for client in (self._victim, self._bystander):
            client.do("close")
        _wait_for(lambda: all(map(_dead, self._family)), f"some of the processes {self._family} stay")
        self.destroy()
        names = [name for name in os.listdir("/dev/shm") if re.match(r"molt-(\d+)-", name)]
        left = [name for name in names if int(name.split("-")[1]) in self._supervisors]
        assert not left, f"shared memory stays: {left}"

    def destroy(self) -> None:
        """End everything that may be left of a failed run."""
        hits = {hit.pid for point in POINTS if (hit := self._control.hit(point.name))}
        self._control.disarm()
        for client in (self._victim, self._bystander):
            client.kill()
        for pid in {self._supervisor, *self._family, *hits}:
            if pid and not _dead(pid) and _is_ours(pid, self._folder.name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._look_away()
        self._control.close()
        self._ledger.close()
        self._folder.cleanup()


def _nth(cell: Cell, repetition: int) -> int:
    """Which passage counts: not always the first where there are many."""
    if cell.point.script is Script.LARGE:
        return 1 + repetition % 3
    if cell.load is Load.SATURATED and cell.actor is Actor.EXECUTOR and cell.point.script is Script.ECHO:
        return 1 + repetition % 7
    return 1


def _first(condition: Callable[[], Any], timeout_s: float) -> Any:
    """The first value of the condition that is true; None if there is none in time."""
    until = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() >= until:
            return None
        time.sleep(0.001)
    return value


def _wait_for(condition: Callable[[], Any], complaint: str) -> None:
    assert _first(condition, PATIENCE_S), complaint


def _status(pid: int) -> str:
    """The state of a process, as /proc has it; "X" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _dead(pid: int) -> bool:
    """Whether it has ended, be it that nobody has reaped it yet."""
    return _status(pid) in "XZ"


def _children(pid: int) -> set[int]:
    """The processes whose parent it is."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.update(map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()))
    return found


def _descriptors(pid: int, but: str | None = None) -> int:
    """How many descriptors a process has, but for those of a kind."""
    kinds = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            kinds.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return sum(but is None or not kind.startswith(but) for kind in kinds)


def _arenas(pid: int) -> int:
    """How many arenas a process has mapped."""
    return sum("/dev/shm/molt-" in line for line in Path(f"/proc/{pid}/maps").read_text().splitlines())


def _is_ours(pid: int, folder: str) -> bool:
    with contextlib.suppress(OSError):
        return folder.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def median(values: Iterable[float]) -> float | None:
    """The median; None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None
