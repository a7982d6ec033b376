"""The settings that servers run under, and what client and worker make of them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.environment import ROOT
from bench.demo.preparation import DEMO_EXPORTS

#: Clients in a closed loop measure throughput, however long their requests wait: none is to be refused for that.
NO_TARGET = (("MOLT_WORKER_QUEUE_TARGET_MS", "0"),)


def server_settings(directory: Path, *, builds: Path | None, compiled: bool) -> dict[str, str]:
    """What every server of the benchmark runs under, scenario or study.

    Its pool is its own: never one that the user runs, nor that of another server, and gone with the server. Its
    handlers run in Python unless they are to be compiled and could be: an earlier build must not come in between.
    """
    return {
        "MOLT_EXPORTS": str(ROOT / DEMO_EXPORTS),
        "MOLT_LOG_LEVEL": "warning",
        "MOLT_WORKER_NAME": f"bench-{secrets.token_hex(4)}",
        "MOLT_RUNTIME_DIR": str(directory / "pools"),
        "MOLT_WORKER_LINGER_MS": "0",
        "MOLT_COMPILED": "require" if compiled and builds is not None else "off",
        "MOLT_BUILD_DIR": str(builds or directory),
    }


def worker_facts(health: bytes) -> dict[str, Any]:
    """What the health endpoint tells of the worker that stays true: version, transport, sizes."""
    worker = (_parse(health) or {}).get("worker")
    if not isinstance(worker, dict):
        return {}
    facts = {name: worker[name] for name in ("version", "transport", "max_queue") if name in worker}
    executors = worker.get("executors")
    if isinstance(executors, dict) and "size" in executors:
        facts["executors"] = executors["size"]
    return facts


def effective_client_config(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What the client library makes of `environment`, asked in a process of its own; None if it can't say."""
    program = (
        "import dataclasses, json; from molt_accel.config import Config; "
        "print(json.dumps(dataclasses.asdict(Config.load()), default=str))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | dict(environment),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return _parse(done.stdout)


def _parse(text: str | bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
