"""The matrix's clients: processes that call and note what came of each call, and their handles in the runner."""

import asyncio
import gc
import itertools
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any, Final, NamedTuple

from molt_accel import Client, MoltError
from molt_accel.ipc.shm import attach
from tests.system.crash import matrix_entries
from tests.system.crash.failpoints.table import Script

#: Longer than anything takes on a slow machine; who reaches it hangs.
PATIENCE_S: Final = 30.0
#: More than a ring of the stage's arena holds.
_LARGE: Final = 100_000
_LOAD_THREADS: Final = 3
#: In so many calls of a load one is large, and some last.
_TURNS: Final = 16


class Outcome(NamedTuple):
    """What came of a call: "Ok", the error's class, or what is wrong with it. Times of CLOCK_MONOTONIC."""

    kind: str
    start_ns: int
    end_ns: int


class Gone(Exception):
    """The client's process has ended."""


class ClientProcess:
    """A client in a process of its own, as the runner sees it. It does one thing after the other."""

    def __init__(
        self, context: ForkServerContext, environ: dict[str, str], config: dict[str, Any], index: int
    ) -> None:
        self._pipe, theirs = context.Pipe()
        self.process: Final = context.Process(
            target=_main, args=(theirs, environ, config, index), daemon=True
        )
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process.pid is not None
        return self.process.pid

    def begin(self, what: str, *args: object) -> None:
        """Have it do something, and don't wait."""
        self._pipe.send((what, args))

    def result(self) -> Any:
        """What came of it. Raises Gone if it has ended, TimeoutError if it hangs."""
        try:
            if not self._pipe.poll(PATIENCE_S):
                raise TimeoutError(f"client {self.pid} hangs")
            good, value = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise Gone from None
        if not good:
            raise AssertionError(f"client {self.pid} failed:\n{value}")
        return value

    @property
    def ready(self) -> bool:
        """Whether there is a result, or it has ended by itself."""
        return not self._pipe.closed and self._pipe.poll()

    def do(self, what: str, *args: object) -> Any:
        """Have it do something, and wait for what comes of it."""
        self.begin(what, *args)
        return self.result()

    def kill(self) -> None:
        """End it, whatever state it is in."""
        self.process.kill()
        self.process.join(PATIENCE_S)
        self._pipe.close()


def _main(pipe: Connection, environ: dict[str, str], config: dict[str, Any], index: int) -> None:
    os.environ.update(environ)
    attach.FIRST_BATCH = 2  # type: ignore[misc]  # so that it can be short of channels
    caller = Caller(config, index)
    while True:
        try:
            what, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, getattr(caller, what)(*args)
        except BaseException:
            answer = False, traceback.format_exc()
        pipe.send(answer)


class Caller:
    """What a client process does when it is told to.

    Args:
        config: Of its `Client`.
        index: 0 or 1; what tells the numbers of its requests from the other client's.
    """

    def __init__(self, config: dict[str, Any], index: int) -> None:
        self._config = config
        self._client = Client(**config)
        self._numbers = itertools.count(index, 2)
        self._loading = threading.Event()
        self._load: list[threading.Thread] = []
        self._seen: list[Outcome] = []

    def _run(
        self, entry: str, extra: object, call: Callable[[str, list[object]], object], number: int
    ) -> Outcome:
        start_ns = time.monotonic_ns()
        try:
            got = call(entry, [number, extra])
        except MoltError as exc:
            kind = type(exc).__name__
        except asyncio.CancelledError:
            kind = "MoltCancelled"
        except BaseException as exc:
            kind = f"WRONG: {exc!r}"
        else:
            kind = "Ok" if got == [number, extra] else f"WRONG: {str(got)[:100]} for {number}"
        end_ns = time.monotonic_ns()
        runs = matrix_entries.runs(number)
        if runs > 1 or (kind == "Ok" and not runs):
            kind = f"WRONG: {kind}, run {runs} times"
        return Outcome(kind, start_ns, end_ns)

    def _call(self, entry: str, extra: object = None, *, awaited: bool = False, **options: Any) -> Outcome:
        options = {"timeout_ms": None, **options}

        def call(entry: str, order: list[object]) -> object:
            if awaited:
                return asyncio.run(self._client.acall(entry, order, **options))
            return self._client.call(entry, order, **options)

        return self._run(entry, extra, call, next(self._numbers))

    def _call_at_once(
        self, count: int, seconds: float, *, awaited: bool, entry: str = "nap"
    ) -> list[Outcome]:
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(lambda _: self._call(entry, seconds, awaited=awaited), range(count)))

    def _calls_of_a_loop(self) -> list[Outcome]:
        """Calls long enough for a bell to come meanwhile: it is rung for later ones."""
        with asyncio.Runner() as runner:

            def call(entry: str, order: list[object]) -> object:
                return runner.run(self._client.acall(entry, order, timeout_ms=None))

            return [self._run("nap", 0.02, call, next(self._numbers)) for _ in range(3)]

    def _call_and_cancel(self, *, awaited: bool) -> Outcome:
        number = next(self._numbers)

        def running() -> bool:
            return matrix_entries.runs(number) > 0

        async def cancel(entry: str, order: list[object]) -> object:
            task = asyncio.create_task(self._client.acall(entry, order, timeout_ms=None))
            while not running() and not task.done():
                await asyncio.sleep(0.001)
            task.cancel()
            return await task

        def call(entry: str, order: list[object]) -> object:
            if awaited:
                return asyncio.run(cancel(entry, order))
            return self._client.call(entry, order, timeout_ms=None, cancel_check=running)

        return self._run("nap", PATIENCE_S, call, number)

    def script(self, script: Script, awaited: bool) -> list[Outcome]:
        """Do what gets somebody to a point; by `acall` if `awaited`, else by `call`."""
        if script in (Script.ATTACH, Script.DETACH, Script.LEASE, Script.LOOP):
            self._client.close()
            self._client = Client(**self._config)
        if script is Script.LARGE:
            return [self._call("echo", "x" * _LARGE, awaited=awaited)]
        if script is Script.NAP:
            return self._call_at_once(2, 0.02, awaited=False)  # loops sleep at no doorbell
        if script is Script.LIMIT:
            return self._call_at_once(2, 0.02, awaited=awaited, entry="narrow")
        if script is Script.LOOP:
            return self._calls_of_a_loop()
        if script is Script.CANCEL:
            return [self._call_and_cancel(awaited=awaited)]
        if script is Script.LATE:
            return [self._call("nap", PATIENCE_S, awaited=awaited, timeout_ms=30)]
        if script is Script.STUCK:
            return [self._call("stuck", awaited=awaited, timeout_ms=30)]
        if script is Script.CRASH:
            return [self._call("crash", awaited=awaited)]
        if script is Script.LEASE:
            return self._call_at_once(4, 0.01, awaited=awaited)
        if script is Script.DIE:
            return [self._call("nap", PATIENCE_S)]
        return [self._call("echo", awaited=awaited)]

    def load(self) -> None:
        """Call from several threads without a pause, until `pause`."""
        self._loading.set()
        self._load = [threading.Thread(target=self._work, daemon=True) for _ in range(_LOAD_THREADS)]
        for thread in self._load:
            thread.start()
        self.progress()

    def _work(self) -> None:
        while self._loading.is_set():
            turn = len(self._seen) % _TURNS
            if turn == 0:
                outcome = self._call("echo", "y" * _LARGE)
            elif turn % 4 == 0:
                outcome = self._call("nap", 0.002)  # so that somebody is in the middle of one
            else:
                outcome = self._call("echo")
            self._seen.append(outcome)

    def progress(self) -> bool:
        """Whether calls that begin only now are answered, be it the load's or one of its own."""
        since_ns = time.monotonic_ns()
        if not self._loading.is_set():
            self._seen.append(self._call("echo"))
            return self._seen[-1].kind == "Ok"
        while time.monotonic_ns() - since_ns < PATIENCE_S * 1e9:
            if any(each.kind == "Ok" and each.start_ns > since_ns for each in self._seen[-10:]):
                return True
            time.sleep(0.001)
        return False

    def pause(self) -> list[Outcome]:
        """End the load; what came of its calls."""
        self._loading.clear()
        for thread in self._load:
            thread.join()
        seen, self._seen, self._load = self._seen, [], []
        return seen

    def settle(self) -> list[str]:
        """Call until it is answered; the errors before that."""
        errors: list[str] = []
        while (kind := self._call("echo").kind) != "Ok":
            errors.append(kind)
            assert len(errors) < 200, errors
            time.sleep(0.01)
        return errors

    def ping(self) -> dict[str, Any]:
        """The supervisor's report."""
        return self._client.ping(timeout_ms=PATIENCE_S * 1000)

    def collect(self) -> None:
        """Let go of what is not needed any more."""
        gc.collect()

    def close(self) -> None:
        """Leave the pool."""
        self._client.close()


def kinds(outcomes: Iterable[Outcome]) -> set[str]:
    """What there is among outcomes."""
    return {outcome.kind for outcome in outcomes}
