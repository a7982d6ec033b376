"""Fixtures that several tests of the benchmarks share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import BenchError
from bench.demo.load.k6 import K6, find_k6

DATA = Path(__file__).resolve().parent / "data"


@pytest.fixture
def sample() -> Callable[[str], dict[str, Any]]:
    """Reads a summary that k6 1.1.0 wrote, by name."""

    def read(name: str) -> dict[str, Any]:
        return json.loads((DATA / f"k6_1_1_0_{name}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    return read


@pytest.fixture
def k6() -> K6:
    """The k6 that loads servers; a test that needs it is skipped where there is none."""
    try:
        return find_k6()
    except BenchError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python programs that talk over pipes, and ends them after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(
        program: str, name: str = sys.executable, arguments: Sequence[str] = (), **extra: Any
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [name, "-c", program, *arguments],
            executable=sys.executable,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **extra,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
