"""A client process of the soak test: calls without a pause, checks each reply, and says what came of them.

A program: its one argument is `Work` as JSON. It writes a line of JSON, sums since its start, twice a second, works
until its stdin is closed, and writes a last one.
"""

import asyncio
import contextlib
import faulthandler
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from molt_accel import CallOptions, Client, MoltError, MoltWorkerCrashed, MoltWorkerUnavailable
from tests.system.soak.orders import Order, Orders

#: Plain small calls to each call of another kind.
BATCH = 32
#: Of the calls that are not plain, one in so many is a client of its own that is closed under its calls.
CLOSE_EVERY = 4000
_REPORT_S = 0.5
#: Pause after a call that found no worker: it is being started.
_NO_WORKER_S = 0.005
_SMALL = b"x" * 256


@dataclass(frozen=True)
class Work:
    """What a client process is to do.

    Attributes:
        config: Of the client.
        workers: Threads, or tasks of one event loop.
        kills: Who is killed meanwhile.
        timeout_ms: Deadline of the calls that have none of their own. Longer than anything should take.
        hang_s: How long a call may take before it is said to hang. Longer than that.
    """

    config: dict[str, Any]
    workers: int
    asynchronous: bool
    kills: list[str]
    seed: int
    timeout_ms: float
    hang_s: float


def bucket(nanoseconds: int) -> int:
    """The histogram bucket of a time: eight to each power of two."""
    bits = nanoseconds.bit_length()
    return bits << 3 | (nanoseconds >> (bits - 4)) & 7 if bits > 3 else nanoseconds


def quantile(counts: Counter[int], share: float) -> float:
    """The time in microseconds below which that share of the calls ended, to one part in eight."""
    left = share * counts.total()
    for each in sorted(counts):
        left -= counts[each]
        if left <= 0:
            return (1 << (each >> 3) - 1) * (8.5 + (each & 7)) / 8 / 1000
    return 0.0


def name_of(error: BaseException) -> str:
    """The outcome that an error is."""
    name = type(error).__name__
    if isinstance(error, MoltWorkerCrashed) and error.exit_code is not None:
        return f"{name} {error.exit_code}"
    return name


class Caller:
    """What threads and tasks have in common: one call after the other, and what came of them."""

    def __init__(self, client: Client, work: Work, number: int) -> None:
        self.client = client
        self.work = work
        self.calls: Counter[str] = Counter()  #: by kind and outcome
        self.latency: Counter[int] = Counter()  #: of plain calls, by `bucket`
        self.wrong: list[str] = []
        self.doing = ("starting", time.monotonic())
        self.chance = random.Random(f"{work.seed} {number}")
        self.orders = Orders(self.chance, work.kills)
        self._who = os.getpid() * 1000 + number
        self._number = 0

    def nonce(self) -> list[int]:
        """What no other call carries."""
        self._number += 1
        return [self._who, self._number]

    def note(self, order: Order, outcome: str, about: object = None) -> None:
        """Count an outcome, and keep those that can't be."""
        self.calls[f"{order.kind} {outcome}"] += 1
        if not self.orders.plausible(outcome, order.plausible) and len(self.wrong) < 20:
            self.wrong.append(f"{order.kind}: {outcome}: {about!r}")

    def over(self, began_ns: int) -> None:
        """A plain call is over."""
        self.latency[bucket(time.perf_counter_ns() - began_ns)] += 1


_OK = frozenset({"Ok"})


class ThreadCaller(Caller):
    """Calls from a thread."""

    def run(self, stop: threading.Event) -> None:
        specials = self.chance.randrange(CLOSE_EVERY)
        while not stop.is_set():
            self.doing = ("plain calls", time.monotonic())
            self.plain_calls()
            specials += 1
            if specials % CLOSE_EVERY == 0:
                self.close_under_calls()
                continue
            order = self.orders.draw(self.nonce())
            self.doing = (order.kind, time.monotonic())
            self.call(order)

    def plain_calls(self) -> None:
        """What most calls are, with as little as possible beside the calls."""
        call, right = self.client.call, 0
        for _ in range(BATCH):
            payload = [self.nonce(), _SMALL[: self.chance.getrandbits(8)]]
            began_ns = time.perf_counter_ns()
            try:
                reply = call("echo", payload)
            except Exception as exc:
                self.failed(Order("plain", "echo", payload, _OK), exc)
            else:
                self.over(began_ns)
                if reply == payload:
                    right += 1
                else:
                    self.note(Order("plain", "echo", payload, _OK), "WRONG", reply)
        self.calls["plain Ok"] += right

    def failed(self, order: Order, error: Exception) -> None:
        """It ended with an error."""
        self.note(order, name_of(error), error)
        if isinstance(error, MoltWorkerUnavailable):
            time.sleep(_NO_WORKER_S)

    def call(self, order: Order) -> None:
        try:
            reply = self.client.call(order.entry, order.payload, **order.options)
        except Exception as exc:
            self.failed(order, exc)
        else:
            self.note(order, order.outcome(reply))

    def close_under_calls(self) -> None:
        """Another client, closed while two threads call."""
        self.doing = ("a client that is closed", time.monotonic())
        side = Client(**self.work.config, options=self.client.options)
        callers = [threading.Thread(target=self._until_closed, args=(side,)) for _ in range(2)]
        for caller in callers:
            caller.start()
        time.sleep(0.05 * self.chance.random())
        side.close()
        for caller in callers:
            caller.join()

    def _until_closed(self, side: Client) -> None:
        while True:
            nonce = self.nonce()
            order = Order("closed", "sleep", 0.0002, frozenset({"Ok", "MoltCancelled"}), "slept")
            try:
                reply = side.call(order.entry, order.payload)
            except MoltError as exc:
                if exc.detail in ("the client is closed", "the client was closed"):
                    self.calls["closed MoltCancelled"] += 1
                    return
                self.note(order, name_of(exc), exc)
            except Exception as exc:
                self.note(order, name_of(exc), [nonce, exc])
                return
            else:
                self.note(order, order.outcome(reply))


class TaskCaller(Caller):
    """Calls from a task."""

    async def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.doing = ("plain calls", time.monotonic())
            for _ in range(BATCH):
                order = self.plain()
                began_ns = time.perf_counter_ns()
                await self.call(order)
                self.over(began_ns)
            order = self.orders.draw(self.nonce())
            self.doing = (order.kind, time.monotonic())
            await self.call(order)
            if self.chance.random() < 0.1:
                self.doing = ("a task that is cancelled", time.monotonic())
                await self.cancel()

    def plain(self) -> Order:
        """A small call."""
        nonce = [self.nonce(), _SMALL[: self.chance.getrandbits(8)]]
        return Order("plain", "echo", nonce, _OK, nonce)

    async def call(self, order: Order) -> None:
        try:
            reply = await self.client.acall(order.entry, order.payload, **order.options)
        except Exception as exc:
            self.note(order, name_of(exc), exc)
            if isinstance(exc, MoltWorkerUnavailable):
                await asyncio.sleep(_NO_WORKER_S)
        else:
            self.note(order, order.outcome(reply))

    async def cancel(self) -> None:
        """A call whose task is cancelled under it."""
        order = Order("cancelled", "sleep", 0.003, frozenset({"Ok", "CancelledError"}), "slept")
        task = asyncio.ensure_future(self.client.acall(order.entry, order.payload))
        await asyncio.sleep(0.006 * self.chance.random())
        task.cancel()
        try:
            outcome, error = order.outcome(await task), None
        except (Exception, asyncio.CancelledError) as exc:
            outcome, error = name_of(exc), exc
        self.note(order, outcome, error)


def run_tasks(callers: list[TaskCaller], stop: threading.Event) -> None:
    """All tasks in one event loop, on this thread."""

    async def together() -> None:
        await asyncio.gather(*(caller.run(stop) for caller in callers))

    asyncio.run(together())


def report(callers: list[Caller], **more: object) -> None:
    """Write the sums. Threads go on meanwhile: each of them is a copy, made at once."""
    calls: Counter[str] = Counter()
    latency: Counter[int] = Counter()
    for caller in callers:
        calls.update(caller.calls.copy())
        latency.update(caller.latency.copy())
    wrong = [each for caller in callers for each in list(caller.wrong)]
    line = {"calls": calls, "latency": sorted(latency.items()), "wrong": wrong, **more}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(work: Work) -> int:
    """Work until stdin is closed."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    client = Client(**work.config, options=CallOptions(timeout_ms=work.timeout_ms))
    threads: list[threading.Thread]
    callers: list[Caller]
    if work.asynchronous:
        tasks = [TaskCaller(client, work, number) for number in range(work.workers)]
        callers = [*tasks]
        threads = [threading.Thread(target=run_tasks, args=(tasks, stop), daemon=True)]
    else:
        each_thread = [ThreadCaller(client, work, number) for number in range(work.workers)]
        callers = [*each_thread]
        threads = [threading.Thread(target=each.run, args=(stop,), daemon=True) for each in each_thread]
    for thread in threads:
        thread.start()
    while not stop.is_set() or any(thread.is_alive() for thread in threads):
        hanging = [
            f"{what}, for {time.monotonic() - since:.0f} s"
            for what, since in (caller.doing for caller in callers)
            if time.monotonic() - since > work.hang_s
        ]
        if not stop.is_set():
            hanging += ["a caller ended by itself" for thread in threads if not thread.is_alive()]
        if hanging:
            faulthandler.dump_traceback(all_threads=True)
            report(callers, hanging=hanging)
            return 3
        report(callers)
        if stop.wait(_REPORT_S):
            for thread in threads:
                thread.join(_REPORT_S)
    counted = {}
    with contextlib.suppress(MoltError):
        counted = client.ping(timeout_ms=work.timeout_ms)["outcomes"]
    report(callers, counted=counted)
    client.close()
    return 0


if __name__ == "__main__":
    faulthandler.enable()
    code = main(Work(**json.loads(sys.argv[1])))
    if code:
        os._exit(code)  # a thread hangs, and would hold the interpreter's end
    sys.exit(code)
