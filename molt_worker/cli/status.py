"""The command ``molt-worker status``: what a pool of shared memory is doing, once or live.

It attaches as an observer: the pool tells it where its memory is, and from then on it only reads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from molt_accel.config import Config, ConfigError
from molt_accel.errors import MoltWorkerUnavailable
from molt_accel.ipc.shm.arena import native
from molt_accel.ipc.shm.attach import connect
from molt_worker.cli.observer import Observer, PoolPlace
from molt_worker.cli.status_view import as_table, as_text
from molt_worker.supervisor.shm.snapshot import Snapshot

if TYPE_CHECKING:
    from rich.live import Live

_APPEAR_S: Final = 0.25  #: how often it is looked whether a pool has appeared
_EXIT_USAGE: Final = 2


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
            document = {"name": pool.name, "socket": pool.path, **snapshot.as_dict()}
            text = json.dumps(document, indent=2) if options.json else as_text(pool, snapshot)
            sys.stdout.write(text + "\n")
    except ConfigError as exc:
        return _fail(str(exc), _EXIT_USAGE)
    except MoltWorkerUnavailable as exc:
        return _fail(exc.detail, 1)
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="molt-worker status",
        description="Shows what a pool of shared memory is doing. It only reads the pool's memory, "
        "which costs the pool nothing.",
    )
    parser.add_argument(
        "--name", help="the pool [MOLT_WORKER_NAME; default: this project's, or the only one]"
    )
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how to show a pool."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print one JSON document")
    how.add_argument("--watch", action="store_true", help="show it live, until Ctrl-C")
    parser.add_argument("--interval", metavar="S", type=_interval, help="seconds between looks [default: 1]")


def _interval(text: str) -> float:
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0.1 <= seconds <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not allowed; it must be a number from 0.1 to 3600")


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"molt-worker: {text}\n")
    return code


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
                    live.update(as_table(pool, now, before), refresh=True)
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
