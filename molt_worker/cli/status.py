"""The command ``molt-worker status``: what a pool of shared memory is doing, once or live.

It attaches as an observer: the pool tells it where its memory is, and from then on it only reads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from molt_accel.config import Config, ConfigError
from molt_accel.errors import MoltWorkerUnavailable
from molt_accel.ipc import control
from molt_accel.ipc.frame import FrameError
from molt_accel.ipc.messages import SHM_FROM_WORKER
from molt_accel.ipc.shm.arena import native
from molt_accel.ipc.shm.attach import connect, observe
from molt_accel.ipc.shm.layout import Gauge
from molt_worker.supervisor.shm.snapshot import ExecutorStatus, Snapshot, quantiles, take

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

#: How often it is looked whether a pool has appeared.
_APPEAR_S: Final = 0.25
_EXIT_NONE: Final = 1
_EXIT_USAGE: Final = 2
_EXIT_INTERRUPTED: Final = 130


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns its exit code: 0 shown, 1 no such pool, 2 wrong usage or settings, 130 Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.interval is not None and not options.watch:
        parser.error("--interval is for --watch")
    try:
        config = Config.load(worker_name=options.name)
        native()
        pool = PoolPlace.of(config)
        with contextlib.closing(Observer.of(pool)) as observer:
            if options.watch:
                return _watch(pool, observer, options.interval or 1.0)
            snapshot = observer.look()
            if options.json:
                document = {"name": pool.name, "socket": pool.path, **snapshot.as_dict()}
                _print(json.dumps(document, indent=2))
            else:
                _print(as_text(pool, snapshot))
    except ConfigError as exc:
        return _fail(str(exc), _EXIT_USAGE)
    except MoltWorkerUnavailable as exc:
        return _fail(exc.detail, _EXIT_NONE)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="molt-worker status",
        description="Shows what a pool of shared memory is doing. It only reads the pool's memory, "
        "which costs the pool nothing.",
    )
    parser.add_argument(
        "--name", help="the pool [MOLT_WORKER_NAME; default: this project's own, or the only one]"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print one JSON document")
    how.add_argument("--watch", action="store_true", help="show it live, until Ctrl-C")
    parser.add_argument(
        "--interval", metavar="S", type=_interval, help="seconds between two looks [default: 1]"
    )
    return parser


def _interval(text: str) -> float:
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0.1 <= seconds <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not allowed; it must be a number from 0.1 to 3600")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"molt-worker: {text}\n")
    return code


# -- the pool ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PoolPlace:
    """A pool's name, and where its socket is if somebody serves it."""

    name: str
    directory: str
    path: str

    @classmethod
    def of(cls, config: Config) -> PoolPlace:
        """The configured one. Where none is named and this project's own is not served: the only one that is.

        A project's own name follows from its settings, and a shell may not have all that its server has.
        """
        directory, name = config.pool_directory, config.pool_name
        if not config.worker_name:
            served = list(pools_in(directory))
            if len(served) == 1:
                name = served[0]
        return cls(name, directory, control.socket_path(directory, name))

    def missing(self) -> str:
        """What to say where nobody serves it."""
        served = list(pools_in(self.directory))
        if served:
            others = f"served there are: {', '.join(served)}; choose one with --name"
        else:
            others = "no pool is served there; one is by a client's first call, or by molt-worker --shm NAME"
        return f"nobody serves the pool {self.name!r} in {self.directory}; {others}"


def pools_in(directory: str) -> Iterator[str]:
    """The names of the pools that are served in a directory, by this user."""
    with contextlib.suppress(OSError):
        for file in sorted(os.listdir(directory)):
            name, suffix = os.path.splitext(file)
            if suffix == ".sock":
                # A file may be left of a worker that was killed, or be another user's.
                with contextlib.suppress(MoltWorkerUnavailable):
                    sock = connect(os.path.join(directory, file))
                    if sock is not None:
                        sock.close()
                        yield name


class Observer:
    """An attachment to a pool that only looks."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        try:
            self._arena = observe(sock)
            # Of another pid namespace (a container's), its process ids are other processes' here.
            self._processes = control.peer(sock)[0] == self._arena.gauge(Gauge.PID)
        except BaseException:
            sock.close()
            raise

    @classmethod
    def of(cls, pool: PoolPlace) -> Observer:
        """Attach to a pool.

        Raises:
            MoltWorkerUnavailable: nobody serves it, or this process can't attach.
        """
        sock = connect(pool.path)
        if sock is None:
            raise MoltWorkerUnavailable(pool.missing())
        return cls(sock)

    def look(self) -> Snapshot:
        """What the pool is doing now."""
        return take(self._arena, processes=self._processes)

    def sleep(self, seconds: float) -> bool:
        """Wait. False as soon as the pool has ended."""
        until = time.monotonic() + seconds
        while select.select([self._sock], [], [], max(0.0, until - time.monotonic()))[0]:
            try:
                message, _ = control.receive(self._sock, SHM_FROM_WORKER)
            except (OSError, FrameError):
                return False
            if message is None:
                return False
        return True

    def close(self) -> None:
        """Let go of it."""
        self._sock.close()


# -- what is shown ----------------------------------------------------------------------------------------

_COLUMNS: Final = ("executor", "pid", "state", "entry", "for", "deadline in", "calls", "memory")
#: Columns of figures, which stand on the right.
_RIGHT: Final = frozenset({"executor", "pid", "for", "deadline in", "calls", "memory"})


def facts(pool: PoolPlace, now: Snapshot, before: Snapshot | None = None) -> list[tuple[str, str]]:
    """What is shown of a pool as a whole: names and texts.

    Args:
        before: An earlier snapshot of the same pool, which gives rates and what was since then.
    """
    states = [executor.state for executor in now.executors]
    ready = len(states) - states.count("starting")
    busy = ready - states.count("idle")
    outcomes = ", ".join(f"{name} {count:,}" for name, count in now.outcomes.items() if count)
    memory, spin, restarts = now.memory, now.spin, now.restarts
    shown = [
        (
            "pool",
            f"{pool.name}  {now.state}  version {now.version}  pid {now.pid}  up {duration(now.uptime_s)}",
        ),
        ("socket", pool.path),
        ("exports", f"{now.exports['count']}, {now.exports['compiled']} of them compiled"),
        ("executors", f"{busy} busy, {ready} of {now.size} ready"),
        ("queue", f"{now.queued} of {now.capacity} places, {now.in_flight} in flight"),
        ("clients", str(now.clients)),
        ("calls", f"{now.calls:,}" + (f"  ({outcomes})" if outcomes else "")),
    ]
    if before is not None:
        seconds = (now.taken_ns - before.taken_ns) / 1e9
        shown.append(("calls/s", f"{(now.calls - before.calls) / seconds:,.1f}"))
    shown += [
        ("queue time", _spread(now.queue_counts, before.queue_counts if before else None)),
        ("exec time", _spread(now.exec_counts, before.exec_counts if before else None)),
        (
            "restarts",
            f"{restarts['executor_starts']} executors started, {restarts['executor_deaths']} died, "
            f"{restarts['recycled']} recycled, {restarts['reloads']} reloads",
        ),
        (
            "memory",
            f"arena {size(memory['arena_bytes'])}, supervisor {size(memory['supervisor_rss_bytes'])}, "
            f"fork server {size(memory['forkserver_rss_bytes'])}, executors {size(memory['executors_rss_bytes'])}",
        ),
        (
            "spin",
            f"up to {spin['limit_us']} us, {_number(spin['clients'], 'client')} and "
            f"{_number(spin['executors'], 'executor')} at a time"
            if spin["limit_us"]
            else "never",
        ),
    ]
    if now.bad_frames:
        shown.append(("bad frames", f"{now.bad_frames:,}"))
    return shown


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _spread(counts: Sequence[int], before: Sequence[int] | None) -> str:
    """p50, p95 and p99 of a histogram, and of what has come to it since, if anything has."""
    text = _quantiles(counts)
    if before is not None:
        since = [max(0, a - b) for a, b in zip(counts, before, strict=True)]
        text += f"   now: {_quantiles(since)}"
    return text


def _quantiles(counts: Sequence[int]) -> str:
    if not any(counts):
        return "-"
    return ", ".join(f"{name} {duration(us / 1e6)}" for name, us in quantiles(counts).items())


def row(executor: ExecutorStatus) -> list[str]:
    """An executor's line, in the order of the columns."""
    running = executor.running
    entry = for_s = left = ""
    if running is not None:
        entry = "?" if running.entry is None else _printable(running.entry)
        for_s = "" if running.for_ms is None else duration(running.for_ms / 1000)
        left = "" if running.deadline_ms is None else duration(running.deadline_ms / 1000)
    return [
        str(executor.number),
        str(executor.pid),
        executor.state,
        entry,
        for_s,
        left,
        f"{executor.calls:,}",
        size(executor.rss_bytes),
    ]


def as_text(pool: PoolPlace, snapshot: Snapshot) -> str:
    """A pool as lines of plain text."""
    shown = facts(pool, snapshot)
    width = max(len(name) for name, _ in shown)
    lines = [f"{name:<{width}}  {text}" for name, text in shown]
    table = [list(_COLUMNS), *(row(executor) for executor in snapshot.executors)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines.append("")
    for cells in table:
        padded = [
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for name, cell, width in zip(_COLUMNS, cells, widths, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 1e-3:
        text = f"{seconds * 1e6:.0f} us"
    elif seconds < 1:
        text = f"{seconds * 1e3:.1f} ms"
    elif seconds < 120:
        text = f"{seconds:.1f} s"
    elif seconds < 7200:
        text = f"{seconds / 60:.0f} min"
    elif seconds < 172_800:
        text = f"{seconds / 3600:.1f} h"
    else:
        text = f"{seconds / 86_400:.1f} d"
    return sign + text


def size(count: int | None) -> str:
    """Bytes in MiB."""
    return "-" if count is None else f"{count / 2**20:.1f} MiB"


def _printable(text: str) -> str:
    """A name without what could move a terminal's cursor; clients may send any."""
    return "".join(character if character.isprintable() else "?" for character in text)


# -- live -------------------------------------------------------------------------------------------------


def _watch(pool: PoolPlace, observer: Observer, interval_s: float) -> int:
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        return _fail("--watch needs rich; install it with: pip install 'molt-accel[watch]'", _EXIT_USAGE)
    console = Console()
    if not console.is_terminal:
        return _fail("--watch needs a terminal; without one, ask again and again with --json", _EXIT_USAGE)
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            before: Snapshot | None = None
            with contextlib.closing(observer):
                alive = True
                while alive:
                    now = observer.look()
                    live.update(_as_table(pool, now, before), refresh=True)
                    before = now
                    alive = observer.sleep(interval_s)
            observer = _next(pool, live)
    return 0


def _next(pool: PoolPlace, live: Live) -> Observer:
    """Wait until the pool is served again, and say so."""
    waiting = f"the pool {pool.name} has ended; waiting for the next one (Ctrl-C ends)"
    live.update(waiting, refresh=True)
    while True:
        time.sleep(_APPEAR_S)
        try:
            sock = connect(pool.path)
            if sock is not None:
                return Observer(sock)
        except MoltWorkerUnavailable as exc:  # gone again at once, or another version's
            live.update(f"{waiting}\n{exc.detail}", refresh=True)


_STYLES: Final = {"busy": "green", "stopping": "red", "starting": "yellow"}


def _as_table(pool: PoolPlace, now: Snapshot, before: Snapshot | None) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    above = Table.grid(padding=(0, 2))
    above.add_column(style="bold")
    for name, text in facts(pool, now, before):
        above.add_row(name, Text(text))
    below = Table(box=None, padding=(0, 1), header_style="bold")
    for name in _COLUMNS:
        below.add_column(name, justify="right" if name in _RIGHT else "left", no_wrap=True)
    for executor in now.executors:
        below.add_row(*map(Text, row(executor)), style=_STYLES.get(executor.state))
    return Group(above, "", below)
