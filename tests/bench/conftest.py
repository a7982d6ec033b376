"""Fixtures that several tests of the benchmarks share."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.core import BenchError
from bench.demo.load.k6 import K6, find_k6

DATA = Path(__file__).resolve().parent / "data"


@pytest.fixture
def sample() -> Callable[[str], dict[str, Any]]:
    """Reads a summary that k6 1.1.0 wrote, by name."""
    return lambda name: json.loads((DATA / f"k6_1_1_0_{name}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@pytest.fixture
def k6() -> K6:
    """The k6 that loads servers; a test that needs it is skipped where there is none."""
    try:
        return find_k6()
    except BenchError as missing:
        pytest.skip(str(missing))


class Program(subprocess.Popen[str]):
    """A Python program that talks over pipes."""

    def __init__(
        self, program: str, name: str = sys.executable, arguments: Sequence[str] = (), **extra: Any
    ) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        super().__init__([name, "-c", program, *arguments], executable=sys.executable, **pipes, **extra)

    def says(self) -> str:
        """The next line of its output."""
        assert self.stdout is not None
        return self.stdout.readline().strip()

    def is_told(self, line: str) -> None:
        """Writes a line to its input."""
        assert self.stdin is not None
        self.stdin.write(f"{line}\n")
        self.stdin.flush()

    def end(self) -> None:
        """Closes its input, at whose end it ends, and waits for that."""
        assert self.stdin is not None
        assert self.stdout is not None
        self.stdin.close()
        try:
            self.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()
        self.stdout.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., Program]]:
    """Starts Python programs that talk over pipes, and ends them after the test."""
    started: list[Program] = []

    def start(*words: str, **extra: Any) -> Program:
        started.append(Program(*words, **extra))
        return started[-1]

    yield start
    for process in started:
        process.end()
