"""Runs a bridge: connects to NATS and to the pool, serves, and begins again with growing pauses when either is lost."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import platform
import signal
import time
from typing import Any, Final

from molt_accel import codec
from molt_accel.call import attempt
from molt_accel.cluster.engine import EngineError
from molt_accel.cluster.loop import new_event_loop
from molt_accel.cluster.nats import NatsEngine
from molt_accel.config import Config, is_manifest_path
from molt_accel.errors import MoltError, MoltWorkerUnavailable
from molt_accel.ipc.messages import PING, Codec, Request
from molt_accel.transports.base import Transport
from molt_accel.transports.opening import open_transport
from molt_accel.waits import WorkerStart, adrive
from molt_worker.bridge.bridge import Bridge
from molt_worker.bridge.service import PoolService

log = logging.getLogger("molt_worker")

FIRST_PAUSE_S: Final = 0.25  #: before it is tried again to reach a pool or NATS; doubled each time
LONGEST_PAUSE_S: Final = 10.0
_PING_S: Final = 5.0


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
    await _again_and_again(engine.connect, stop)
    transport = open_transport(config)
    try:
        while not stop.is_set():
            report = await _again_and_again(lambda: _report_of(transport), stop)
            if report is not None:
                await _serve(config, engine, transport, report, stop)
    finally:
        transport.close()
        await engine.close()


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


async def _report_of(transport: Transport) -> dict[str, Any]:
    """What the pool says of itself. Raises MoltError: it is not there, or not ready."""
    await WorkerStart(transport, _PING_S).wait()
    deadline_ns = time.monotonic_ns() + int(_PING_S * 1e9)
    request = Request(1, PING, codec.encode(Codec.MSGPACK, None), deadline_ns=deadline_ns)
    response, error = await adrive(attempt(transport, request, None))
    if error is not None or response is None:
        raise error or MoltWorkerUnavailable("the pool does not answer")
    report: dict[str, Any] = codec.decode(Codec.MSGPACK, response.payload)
    if not report["ready"]:
        raise MoltWorkerUnavailable("the pool is still importing its exports")
    return report


async def _serve(
    config: Config, engine: NatsEngine, transport: Transport, report: dict[str, Any], stop: asyncio.Event
) -> None:
    size, max_queue = int(report["executors"]["size"]), int(report.get("max_queue", 0))
    bridge = Bridge(config, engine, transport, [*report["exports"], PING], size, max_queue)
    facts = {
        "manifest": _manifest_hash(config, report),
        "host": platform.node(),
        "pid": str(os.getpid()),
        "executors": str(size),
    }
    service = PoolService(engine.client, bridge, config.pool_name, config.nats_subject, facts)
    try:
        await service.start()
        await bridge.run(stop)
    except EngineError as exc:
        log.warning("%s", exc)
    finally:
        if engine.connected:
            await service.stop()


def _manifest_hash(config: Config, report: dict[str, Any]) -> str:
    """Tells pools of other exports apart: of the manifest's text, or of the entrypoints' names."""
    text = "\n".join(report["exports"]).encode()
    if config.exports and is_manifest_path(config.exports):
        try:
            with open(config.exports, "rb") as manifest:
                text = manifest.read()
        except OSError as exc:
            log.warning("the manifest can't be read here, so its hash is of the names alone: %s", exc)
    return hashlib.sha256(text).hexdigest()[:16]
