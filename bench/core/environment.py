"""What the figures depend on besides the code under test: commit, machine, tools, settings."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]


def available_cores() -> int:
    """Processors this process may run on (its affinity, not what the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    return {
        "cpu": _cpu_model(),
        "cores_usable": available_cores(),
        "cores_logical": psutil.cpu_count(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cpu_mhz": _frequency(),
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


def tools(packages: Iterable[str], **more: Any) -> dict[str, Any]:
    """Versions of Python and of the packages that took part; None for one that isn't installed."""
    gil = getattr(sys, "_is_gil_enabled", None)
    versions: dict[str, Any] = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gil": gil is None or bool(gil()),
        **more,
    }
    for package in packages:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            version = None
        versions[package.lower().replace("-", "_")] = version
    return versions


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The MOLT_* settings among `environment`, sorted."""
    return {name: environment[name] for name in sorted(environment) if name.startswith("MOLT_")}


def places(scratch: Path, out: Path) -> dict[str, str]:
    """The names that stand in results for the directories of this machine."""
    return {
        str(scratch): "<scratch>",
        str(out): "<out>",
        str(ROOT): ".",
        sys.prefix: "<python>",
        sys.base_prefix: "<python>",
        str(Path.home()): "~",
    }


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
