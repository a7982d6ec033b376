"""Runs a bridge: connects to NATS and to the pool, serves, and begins again with growing pauses when either is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import signal
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from molt_accel import codec
from molt_accel.call import attempt
from molt_accel.cluster.engine import EngineError
from molt_accel.cluster.loop import new_event_loop
from molt_accel.cluster.nats import NatsEngine
from molt_accel.config import Config
from molt_accel.errors import MoltError, MoltWorkerUnavailable
from molt_accel.ipc.messages import PING, Codec, Request
from molt_accel.transports.base import Transport
from molt_accel.transports.opening import open_transport
from molt_accel.waits import WorkerStart, adrive
from molt_worker.bridge.bridge import Bridge
from molt_worker.bridge.http import serving
from molt_worker.bridge.load import LOOK_S, LoadMeter
from molt_worker.bridge.metrics import Exposition
from molt_worker.bridge.service import PoolService
from molt_worker.bridge.survey import Survey

log = logging.getLogger("molt_worker")

FIRST_PAUSE_S: Final = 0.25  #: before it is tried again to reach a pool or NATS; doubled each time
LONGEST_PAUSE_S: Final = 10.0
_PING_S: Final = 5.0
#: Of the bridge's own requests: no other in flight may have it, and those that it passes on count from 1.
_OWN_ID: Final = 2**64 - 1


def serve(config: Config) -> None:
    """Be the bridge of the pool that `config` names, until SIGTERM or SIGINT."""

    async def until_told() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await run(config, stop)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(until_told())


async def run(config: Config, stop: asyncio.Event) -> None:
    """Be the bridge of the pool that `config` names, until `stop` is set."""
    engine = NatsEngine(config, f"molt bridge {config.pool_name}")
    told = Exposition(config.pool_name, Survey(engine, config.nats_subject))
    async with _told_by_http(config, told):
        await _again_and_again(engine.connect, stop)
        try:
            while not stop.is_set():
                reached = await _again_and_again(lambda: _reached(config), stop)
                if reached is not None:
                    transport, report = reached
                    try:
                        await _serve(config, engine, transport, report, told, stop)
                    finally:
                        transport.close()
        finally:
            await engine.close()


@contextlib.asynccontextmanager
async def _told_by_http(config: Config, told: Exposition) -> AsyncIterator[None]:
    """Tell what there is to tell at MOLT_BRIDGE_METRICS, if that is set. Raises OSError: nobody may listen there."""
    if not config.bridge_metrics:
        yield
        return
    host, _, port = config.bridge_metrics.rpartition(":")
    async with serving(host.strip("[]"), int(port), told.answer) as number:
        log.info("metrics_served port=%d", number)
        yield


async def _again_and_again(what: Any, stop: asyncio.Event) -> Any:
    """Do something until it succeeds. None: it shall stop."""
    pause_s = FIRST_PAUSE_S
    while not stop.is_set():
        try:
            return await what()
        except (EngineError, MoltError) as exc:
            log.warning("%s; it is tried again in %g s", exc, pause_s)
        try:
            async with asyncio.timeout(pause_s):
                await stop.wait()
        except TimeoutError:
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
    return None


async def _reached(config: Config) -> tuple[Transport, dict[str, Any]]:
    """Reach the pool. Returns what it says of itself, too. Raises MoltError: it is not there, or not ready.

    Each try has a transport of its own: one that has failed makes pauses, for the sake of workers that it would start.
    """
    transport = open_transport(config)
    try:
        return transport, await _report_of(transport)
    except BaseException:
        transport.close()
        raise


async def _report_of(transport: Transport) -> dict[str, Any]:
    """What the pool says of itself. Raises MoltError: it is not there, or not ready."""
    await WorkerStart(transport, _PING_S).wait()
    deadline_ns = time.monotonic_ns() + int(_PING_S * 1e9)
    request = Request(_OWN_ID, PING, codec.encode(Codec.MSGPACK, None), deadline_ns=deadline_ns)
    response, error = await adrive(attempt(transport, request, None))
    if error is not None or response is None:
        raise error or MoltWorkerUnavailable("the pool does not answer")
    report: dict[str, Any] = codec.decode(Codec.MSGPACK, response.payload)
    if not report["ready"]:
        raise MoltWorkerUnavailable("the pool is still importing its exports")
    return report


async def _serve(
    config: Config,
    engine: NatsEngine,
    transport: Transport,
    report: dict[str, Any],
    told: Exposition,
    stop: asyncio.Event,
) -> None:
    bridge = Bridge(config, engine, transport, *_offer_of(report))
    meter = LoadMeter()
    meter.take(report)
    facts = {
        "manifest": report["manifest"],
        "host": platform.node(),
        "pid": str(os.getpid()),
        "executors": str(report["executors"]["size"]),
    }
    service = PoolService(engine.client, bridge, config.pool_name, meter, config.nats_subject, facts)
    looking = asyncio.create_task(_look_after(transport, bridge, meter, service, report))
    try:
        await service.start()
        told.bridge, told.meter = bridge, meter
        await bridge.run(stop)
    except EngineError as exc:
        log.warning("%s", exc)
    finally:
        told.bridge = told.meter = None
        looking.cancel()
        if engine.connected:
            await service.stop()


def _offer_of(report: dict[str, Any]) -> tuple[list[str], int, int]:
    """Entrypoints, executors, and places in the queue."""
    return [*report["exports"], PING], int(report["executors"]["size"]), int(report.get("max_queue", 0))


async def _look_after(
    transport: Transport, bridge: Bridge, meter: LoadMeter, service: PoolService, report: dict[str, Any]
) -> None:
    """Go by what the pool reports again and again: its load, and what it exports, which a reload may change."""
    offered = _offer_of(report)
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            report = await _report_of(transport)
        except MoltError as exc:  # if the pool is gone, the bridge finds out by itself
            log.debug("no report of the pool: %s", exc)
            continue
        meter.take(report)
        if _offer_of(report) != offered:
            offered = _offer_of(report)
            log.info("pool_changed exports=%d", len(report["exports"]))
            bridge.offer(*offered)
        service.tell("manifest", report["manifest"])
        service.tell("executors", str(report["executors"]["size"]))
