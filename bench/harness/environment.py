"""What the figures depend on besides the code under test: commit, machine, tools, configuration."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from bench.harness.k6 import K6
from bench.harness.options import available_cores

PACKAGES = ("Django", "gunicorn", "molt-accel", "msgpack", "msgspec", "orjson", "psutil", "posix-ipc")


def git_state(root: Path) -> dict[str, Any]:
    """Commit and whether the work tree differs from it; None where git or the repository doesn't say."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "--verify", "HEAD"), "dirty": None if status is None else bool(status)}


def machine() -> dict[str, Any]:
    """The machine without its name: processors, memory, system, and its load just now."""
    frequency = _frequency()
    return {
        "cpu": _cpu_model(),
        "cores_usable": available_cores(),
        "cores_logical": psutil.cpu_count(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cpu_mhz": frequency,
        "memory_mib": round(psutil.virtual_memory().total / 1024 / 1024),
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "load_average": [round(value, 2) for value in psutil.getloadavg()],
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        # Other systems have no such file; what Python knows has to do.
        return platform.processor()
    return platform.processor()


def _frequency() -> float | None:
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):
        return None
    return round(frequency.current) if frequency else None


def tools(k6: K6) -> dict[str, Any]:
    """Versions of what took part; None for a package that isn't installed."""
    versions: dict[str, Any] = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gil": _has_gil(),
        "k6": k6.version,
        "k6_source": k6.source,
    }
    for package in PACKAGES:
        try:
            versions[package.lower().replace("-", "_")] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package.lower().replace("-", "_")] = None
    return versions


def _has_gil() -> bool:
    enabled = getattr(sys, "_is_gil_enabled", None)
    return True if enabled is None else bool(enabled())


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The MOLT_* settings among `environment`, sorted."""
    return {name: environment[name] for name in sorted(environment) if name.startswith("MOLT_")}


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


def without_paths(value: Any, places: Mapping[str, str]) -> Any:
    """`value` with each directory in `places` replaced by its name: results carry no path of a machine."""
    if isinstance(value, str):
        # Longest first: one directory may lie in another.
        for path in sorted(places, key=len, reverse=True):
            value = value.replace(path, places[path])
        return value
    if isinstance(value, Mapping):
        return {key: without_paths(item, places) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item, places) for item in value]
    return value


def effective_client_config(environment: Mapping[str, str], root: Path) -> dict[str, Any] | None:
    """What the client library makes of `environment`, asked in a process of its own; None if it can't say."""
    program = (
        "import dataclasses, json; from molt_accel.config import Config; "
        "print(json.dumps(dataclasses.asdict(Config.load()), default=str))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=root,
            env=os.environ | dict(environment),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        loaded = _parse(done.stdout)
    except (OSError, subprocess.SubprocessError):
        return None
    return loaded


def _parse(text: str | bytes) -> dict[str, Any] | None:

    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
