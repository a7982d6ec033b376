"""The command ``molt-worker bridge``: serves requests from other hosts, by NATS, with a pool of this host."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Final

from molt_accel.config import ConfigError
from molt_worker.bridge.settings import BridgeConfig

_EXIT_FAILED: Final = 1
_EXIT_USAGE: Final = 2


def main(arguments: Sequence[str]) -> int:
    """Run the bridge until SIGTERM or SIGINT.

    Returns its exit code: 0 stopped as asked, 1 it can't listen for HTTP, 2 wrong usage or settings.
    """
    options = _parser().parse_args(arguments)
    try:
        config = BridgeConfig.load(
            worker_name=options.name,
            nats_url=options.nats,
            nats_subject=options.subject,
            bridge_metrics=options.metrics,
            transport="shm",
            autostart=False,
        )
        if not config.worker_name:
            raise ConfigError(
                "--name (MOLT_WORKER_NAME) is missing: it names the pool, as molt-worker --shm NAME does"
            )
        if not config.nats_url:
            raise ConfigError("--nats (MOLT_NATS_URL) is missing, for example nats://127.0.0.1:4222")
    except ConfigError as exc:
        return _fail(str(exc))
    try:
        from molt_worker.bridge import run
    except ImportError as exc:
        return _fail(str(exc))
    level = logging.getLevelNamesMapping()[config.log_level.upper()]
    logging.basicConfig(level=level, format="%(asctime)s molt-worker %(levelname)s %(message)s")
    try:
        run.serve(config)
    except OSError as exc:
        return _fail(f"can't listen at {config.bridge_metrics}: {exc.strerror}", _EXIT_FAILED)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="molt-worker bridge",
        description="Serves requests that come from other hosts by NATS with a pool of this host. It takes no more "
        "than the pool can begin with in time. The pool is started by itself: molt-worker --shm NAME. How NATS lets "
        "the bridge in is told by environment variables (MOLT_NATS_*).",
    )
    parser.add_argument("--name", help="the pool [MOLT_WORKER_NAME]")
    parser.add_argument("--nats", metavar="URL", help="NATS servers, separated by commas [MOLT_NATS_URL]")
    parser.add_argument("--subject", help="prefix of the subjects [MOLT_NATS_SUBJECT; default: molt]")
    parser.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        help="where to tell statistics by HTTP: /metrics for Prometheus, /cluster for autoscalers "
        "[MOLT_BRIDGE_METRICS; default: nowhere]",
    )
    return parser


def _fail(text: str, code: int = _EXIT_USAGE) -> int:
    sys.stderr.write(f"molt-worker: {text}\n")
    return code
