"""The soak test: clients of every kind on a worker, processes killed under them, for as long as one likes.

Every reply is checked, every call has to end, and to end plausibly; nothing may grow, and in the end nothing may be
left. As a program: ``python tests/system/soak/run.py --help``.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import queue
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[3]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from molt_accel import Client, MoltError  # noqa: E402
from molt_accel.ipc import control  # noqa: E402
from molt_accel.ipc.shm.attach import connect, observe  # noqa: E402
from molt_accel.ipc.shm.layout import ChannelState, state_of  # noqa: E402
from tests.support.processes import logged_worker, marked  # noqa: E402
from tests.system.soak import processes, report  # noqa: E402
from tests.system.soak.client import Work  # noqa: E402
from tests.system.soak.record import Record, Sample  # noqa: E402

VICTIMS = ("executors", "forkserver", "clients", "supervisor")
#: How often each is killed, in relation to the others.
_WEIGHTS = {"executors": 20, "forkserver": 2, "clients": 4, "supervisor": 1}
_SAMPLE_S = 1.0
_TURN_S = 0.05
#: How long things may take that take no time, on a machine that is busy.
_PATIENCE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Options:
    """What to do, for how long."""

    duration_s: float
    transport: str
    kills: tuple[str, ...]
    clients: int = 4
    threads: int = 2
    tasks: int = 8
    executors: int = 2
    kill_every_s: float = 2.0
    timeout_s: float = 60.0
    seed: int = 1
    output: Path | None = None


def seconds(text: str) -> float:
    """A duration: ``90``, ``90s``, ``10m``, ``2h``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 10m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def victims(text: str) -> tuple[str, ...]:
    """Whom to kill: names with commas between them, ``all`` or ``none``."""
    if text in ("all", "none"):
        return VICTIMS if text == "all" else ()
    names = tuple(text.split(","))
    unknown = set(names) - set(VICTIMS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown.pop()!r} is none of {', '.join(VICTIMS)}, all, none")
    return names


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="run.py",
        description=(__doc__ or "").strip().splitlines()[0],
        epilog="Exit code 1: something was wrong; it is listed at the end, and in the result's files.",
    )
    add = made.add_argument
    add("--duration", type=seconds, default=600.0, metavar="TIME", help="90s, 10m (default), 2h")
    add("--transport", choices=("shm", "stdio"), default="shm")
    add(
        "--kill",
        type=victims,
        default=VICTIMS,
        metavar="WHOM",
        help=f"{','.join(VICTIMS)}; all (default), none",
    )
    add("--kill-every", type=seconds, default=2.0, metavar="TIME", help="mean time between kills")
    add("--clients", type=int, default=4, help="client processes with threads (default: 4)")
    add("--threads", type=int, default=2, help="threads in each (default: 2)")
    add("--tasks", type=int, default=8, help="tasks of the one client with an event loop; 0: none")
    add("--executors", type=int, default=2, help="size of the pool (default: 2)")
    add("--timeout", type=seconds, default=60.0, metavar="TIME", help="what no call may take (60s)")
    add("--seed", type=int, default=1, help="of everything that is chosen at random")
    add("--output", type=Path, metavar="FOLDER", help="where the result goes (default: build/soak)")
    return made


class ClientProcess:
    """A client process, and the sums that it reported last."""

    def __init__(self, work: Work, log: Any, environ: dict[str, str], tell: Callable[[str], None]) -> None:
        self.work = work
        self.calls: Counter[str] = Counter()
        self.latency: Counter[int] = Counter()
        self.counted: dict[str, int] | None = None  #: what its worker has counted, at the end
        self._tell = tell
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.soak.client", json.dumps(dataclasses.asdict(work))],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        self.pid = self.process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue  # it was killed in the middle of the line
            self.latency = Counter(dict(said["latency"]))
            self.calls = Counter(said["calls"])
            self.counted = said.get("counted")
            for each in said["wrong"]:
                self._tell(each)
            for each in said.get("hanging", ()):
                self._tell(f"HANGS: client {self.pid}: {each}")

    def kill(self) -> None:
        """SIGKILL, and take what it had said."""
        self.process.kill()
        self.end()

    def end(self, timeout_s: float = _PATIENCE_S) -> int:
        """Have it finish; its exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            return self.process.wait(timeout_s)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(_PATIENCE_S)
            self.process.stdout.close()


class Soak:
    """One run.

    Args:
        folder: For the pool's socket and the log; short.
        show: Called every second with the record.
    """

    def __init__(self, options: Options, folder: Path, show: Callable[[Record], None]) -> None:
        self.options = options
        self.record = Record(
            {
                "transport": options.transport, "kill": ",".join(options.kills) or "none",
                "clients": options.clients, "threads": options.threads, "tasks": options.tasks,
                "executors": options.executors, "seed": options.seed,
            }
        )  # fmt: skip
        self.log = folder / "soak.log"
        self._log_file = self.log.open("ab")
        self._show = show
        self._chance = random.Random(options.seed)
        self._mark = uuid.uuid4().hex
        self._socket = control.socket_path(str(folder), "soak")
        self._config = {
            "transport": options.transport,
            "worker_name": "soak",
            "worker_cmd": logged_worker(self.log, "tests.system.soak.worker"),
            "runtime_dir": str(folder),
            "exports": "tests.system.soak.entries",
            "executors": options.executors,
            "max_queue": 256,
            "grace_ms": 50,
            "linger_ms": 2000,
            "log_level": "error",
        }
        self._clients: list[ClientProcess] = []
        self._ended: list[ClientProcess] = []
        self._wrong: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._seen: set[psutil.Process] = set()
        self._latency: Counter[int] = Counter()
        self._started_s = time.monotonic()
        self._hung = False

    # -- the run ----------------------------------------------------------------------------------------
    def run(self) -> Record:
        """Everything, from the first client to the last check."""
        options, record = self.options, self.record
        os.environ[processes.MARK] = self._mark
        try:
            for number in range(options.clients):
                self._start_client(number, asynchronous=False)
            if options.tasks:
                self._start_client(options.clients, asynchronous=True)
            self._load()
            record.duration_s = time.monotonic() - self._started_s
            if self._hung:
                self._dump_stacks()
            self._stop()
        finally:
            self._clean_up()
            del os.environ[processes.MARK]
            self._log_file.close()
        while not self._wrong.empty():
            said = self._wrong.get()
            if said not in record.wrong:
                record.wrong.append(said)
        record.calls = self._calls()
        record.judge_growth()
        self._judge_crashes()
        if not record.outcomes["Ok"]:
            record.wrong.append("no call was answered")
        return record

    def _start_client(self, seed: int, *, asynchronous: bool) -> None:
        options = self.options
        work = Work(
            config=self._config,
            workers=options.tasks if asynchronous else options.threads,
            asynchronous=asynchronous,
            kills=list(options.kills),
            seed=options.seed * 1_000_000 + seed,
            timeout_ms=options.timeout_s * 1000,
            hang_s=options.timeout_s * 1.5,
        )
        self._clients.append(ClientProcess(work, self._log_file, dict(os.environ), self._wrong.put))

    def _load(self) -> None:
        options = self.options
        _within(lambda: self._calls()["plain Ok"] > 0)  # the clock starts with the first answer
        self._started_s = time.monotonic()
        until_s = self._started_s + options.duration_s
        kill_s = self._started_s + min(2.0, options.duration_s / 4)
        sample_s = self._started_s
        while (now_s := time.monotonic()) < until_s and not self._hung:
            time.sleep(_TURN_S)
            if options.kills and now_s >= kill_s:
                self._kill()
                kill_s = now_s + self._chance.expovariate(1 / options.kill_every_s)
            if now_s >= sample_s:
                self._sample(now_s)
                self._show(self.record)
                sample_s = now_s + _SAMPLE_S
            for client in self._clients:
                if client.process.poll() is not None:
                    self._wrong.put(f"client {client.pid} ended by itself: {client.process.returncode}")
                    self._hung = True

    def _supervisors(self) -> list[int]:
        if self.options.transport == "shm":
            return [pid] if (pid := processes.server_of(self._socket)) else []
        found = []
        for client in self._clients:
            with contextlib.suppress(psutil.Error):
                found += [child.pid for child in psutil.Process(client.pid).children()]
        return found

    def _by_role(self) -> list[tuple[str, psutil.Process]]:
        found = list(processes.families(self._supervisors()))
        for client in self._clients:
            with contextlib.suppress(psutil.Error):
                found.append(("client", psutil.Process(client.pid)))
        return found

    def _kill(self) -> None:
        victim = self._chance.choices(self.options.kills, [_WEIGHTS[each] for each in self.options.kills])[0]
        if victim == "clients":
            client = self._chance.choice(self._clients)
            self._clients.remove(client)
            client.kill()
            self._ended.append(client)
            seed = len(self._clients) + len(self._ended)
            self._start_client(seed, asynchronous=client.work.asynchronous)
        else:
            role = victim.removesuffix("s")
            candidates = [each for found, each in processes.families(self._supervisors()) if found == role]
            if not candidates:
                return
            with contextlib.suppress(psutil.Error):
                self._chance.choice(candidates).kill()
        self.record.kills[victim] += 1

    def _sample(self, now_s: float) -> None:
        record = self.record
        rss: dict[str, list[float]] = {}
        fds: dict[str, list[float]] = {}
        for role, process in self._by_role():
            if process not in self._seen:
                self._seen.add(process)
                record.seen[role] += 1
            found = processes.needs(process)
            if found is not None and found[0] > 0:
                rss.setdefault(role, []).append(found[0] / 1e6)
                fds.setdefault(role, []).append(found[1])
        record.calls = self._calls()
        latency = sum((each.latency for each in [*self._clients, *self._ended]), Counter[int]())
        record.samples.append(
            Sample(
                now_s - self._started_s,
                record.calls.total(),
                latency - self._latency,
                {role: round(statistics.median(values), 2) for role, values in rss.items()},
                {role: statistics.median(values) for role, values in fds.items()},
            )
        )
        self._latency = latency

    def _calls(self) -> Counter[str]:
        return sum((each.calls for each in [*self._clients, *self._ended]), Counter[str]())

    def _dump_stacks(self) -> None:
        """Have whoever may hold a hanging call write to the log where it is."""
        for role, process in self._by_role():
            if role != "client":
                with contextlib.suppress(psutil.Error):
                    self._log_file.write(f"-- {role} {process.pid}\n".encode())
                    self._log_file.flush()
                    process.send_signal(signal.SIGUSR2)
                    time.sleep(0.2)  # so that what two of them write is not mixed

    # -- the end ----------------------------------------------------------------------------------------
    def _stop(self) -> None:
        """Have everybody finish, and look at what they leave."""
        shm = self.options.transport == "shm"
        with contextlib.ExitStack() as stack:
            if shm:  # the pool has to be there still when its last client has left
                client = stack.enter_context(Client(**self._config))
                self._attach(client)
            for each in self._clients:
                assert each.process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    each.process.stdin.close()
            for each in self._clients:
                try:
                    code = each.end(self.options.timeout_s * 2)
                except subprocess.TimeoutExpired:
                    self._wrong.put(f"HANGS: client {each.pid} doesn't finish")
                    self._dump_stacks()
                else:
                    if code:
                        self._wrong.put(f"client {each.pid} ended with code {code}")
            if shm:
                self._look_at_pool(client)
        if not self.options.kills:
            self._compare_counters()

    def _attach(self, client: Client) -> None:
        with contextlib.suppress(MoltError):  # the last kill was just now
            client.start()
            return
        client.start()

    def _look_at_pool(self, client: Client) -> None:
        sock = connect(self._socket)
        if sock is None:
            self._wrong.put("nobody serves the pool in the end")
            return
        with sock:
            view = observe(sock)

            def busy() -> Counter[ChannelState | int]:
                words = (view.word(channel) for channel in range(view.in_use))
                return Counter(state for state in map(state_of, words) if state is not ChannelState.IDLE)

            if not _within(lambda: not busy()):
                self._wrong.put(f"channels that are not idle in the end: {busy()}")

            def whole() -> bool:
                found = client.ping(timeout_ms=_PATIENCE_S * 1000)
                pool = found["executors"]
                return found["clients"] == 1 and pool["idle"] == len(pool["pids"]) == self.options.executors

            if not _within(whole):
                self._wrong.put(f"the pool is not whole in the end: {client.ping()}")
            families = [each for _, each in processes.families([processes.server_of(self._socket)])]
            if not _within(lambda: not processes.zombies(families)):
                self._wrong.put(f"zombies: {processes.zombies(families)}")
            self._counted = client.ping()["outcomes"]

    def _compare_counters(self) -> None:
        """Nobody was killed: what the worker has counted is what its clients have."""
        if self.options.transport == "shm":
            counted = Counter(self._counted)
        else:
            counted = sum((Counter(each.counted or {}) for each in self._clients), Counter[str]())
        calls = self._calls()
        # A task may be cancelled before it has called, and a client be closed; whose workers over stdio nobody asks.
        unsure = sum(count for name, count in calls.items() if name.split()[0] in ("cancelled", "closed"))
        sure = calls.total() - unsure
        if not sure <= counted.total() <= calls.total():
            self._wrong.put(f"clients have made {sure} to {calls.total()} calls, the worker {counted}")
        answered = sum(count for name, count in calls.items() if name.endswith(" Ok"))
        closed_ok = calls["closed Ok"]
        late = sum(count for name, count in calls.items() if name.split()[1] in _GIVEN_UP)
        if not answered - closed_ok <= counted["Ok"] <= answered + late:
            self._wrong.put(f"clients have {answered} answers ({late} given up), the worker {counted['Ok']}")
        self.record.notes.append(f"the worker has counted {counted.total():,} calls, {counted['Ok']:,} Ok")

    def _judge_crashes(self) -> None:
        """A kill costs the calls that its victim ran, and no others."""
        record = self.record
        lost = sum(count for name, count in record.calls.items() if name.endswith(" MoltWorkerCrashed"))
        most = record.kills["executors"] + self.options.executors * record.kills["forkserver"]
        if lost > most:
            record.wrong.append(f"{lost} calls ended with executors, of which {most} at most were killed")

    def _clean_up(self) -> None:
        for client in self._clients:
            if client.process.poll() is None:
                client.kill()
        if not _within(lambda: not marked(processes.MARK, self._mark)):
            left = marked(processes.MARK, self._mark)
            self._wrong.put(f"processes left behind: {[each.cmdline() for each in left]}")
            for each in left:
                with contextlib.suppress(psutil.Error):
                    each.kill()
        pids = {each.pid for each in self._seen}

        def memory() -> list[str]:
            names = (name.split("-") for name in os.listdir("/dev/shm") if name.startswith("molt-"))
            return ["-".join(parts) for parts in names if int(parts[1]) in pids]

        if sys.platform == "linux" and not _within(lambda: not memory()):
            self._wrong.put(f"shared memory left behind: {memory()}")
        bugs = re.search(
            r"supervisor_bug|executor_failed|forkserver_failed", self.log.read_text(errors="replace")
        )
        if bugs:
            self._wrong.put(f"a bug in the worker's log: {bugs[0]}")


_GIVEN_UP = ("MoltTimeout", "MoltCancelled", "CancelledError")


def _within(condition: Callable[[], bool]) -> bool:
    """Whether it holds before patience is at its end."""
    until_s = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.02)
    return True


# -- the program ----------------------------------------------------------------------------------------
class _Screen:
    """Progress: a table that stays in place, or a line now and then where there is no terminal."""

    _EVERY_S = 10.0

    def __init__(self, options: Options) -> None:
        from rich.console import Console
        from rich.live import Live

        self._options = options
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=2) if self._console.is_terminal else None
        self._said_s = 0.0

    def __enter__(self) -> "_Screen":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, record: Record) -> None:
        from rich.table import Table

        now, recent = record.samples[-1], record.samples[-6:]
        rate = (now.calls - recent[0].calls) / max(now.at_s - recent[0].at_s, 1e-9)
        memory = " ".join(f"{role} {value:.0f}" for role, value in now.rss_mb.items())
        outcomes = ", ".join(f"{name} {count:,}" for name, count in record.outcomes.most_common())
        kills = ", ".join(f"{name} {count}" for name, count in record.kills.items()) or "none"
        if self._live is None:
            if now.at_s - self._said_s >= self._EVERY_S or not self._said_s:
                self._said_s = now.at_s
                line = f"{now.at_s:.0f} s: {now.calls:,} calls, {rate:,.0f}/s; {outcomes}; kills: {kills}; MB: {memory}"
                self._console.print(line, soft_wrap=True, highlight=False)
            return
        table = Table(show_header=False, title=f"soak over {self._options.transport}")
        table.add_row("time", f"{now.at_s:.0f} of {self._options.duration_s:.0f} s")
        table.add_row("calls", f"{now.calls:,}, {rate:,.0f} a second")
        for name, count in record.outcomes.most_common():
            table.add_row(f"  {name}", f"{count:,}")
        table.add_row("kills", kills)
        table.add_row("private MB", memory)
        self._live.update(table)


def soak(options: Options, show: Callable[[Record], None] = lambda record: None) -> Record:
    """Run it, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="molt-soak-") as folder:
        run = Soak(options, Path(folder), show)
        record = run.run()
        if record.wrong and options.output is not None:
            options.output.mkdir(parents=True, exist_ok=True)
            shutil.copy(run.log, options.output)
        return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code."""
    given = parser().parse_args(arguments)
    options = Options(
        duration_s=given.duration, transport=given.transport, kills=given.kill, clients=given.clients,
        threads=given.threads, tasks=given.tasks, executors=given.executors, kill_every_s=given.kill_every,
        timeout_s=given.timeout, seed=given.seed, output=given.output or ROOT / "build" / "soak",
    )  # fmt: skip
    assert options.output is not None
    with _Screen(options) as screen:
        record = soak(options, screen.show)
    written = report.write(record, options.output)
    print(written[1].read_text())
    print("written:", *(os.path.relpath(path) for path in written))
    for each in record.wrong:
        print(f"WRONG: {each}", file=sys.stderr)
    return 1 if record.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
