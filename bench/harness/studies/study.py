"""What every study is: a question with servers of its own, answered by a section of the results document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.harness.k6 import K6
from bench.harness.options import Options
from bench.harness.progress import Reporter
from bench.harness.tables import Table


@dataclass(frozen=True, slots=True)
class Context:
    """What a study works with.

    Attributes:
        directory: Scratch files go here; it is empty and the study's own.
        root: The checkout, which servers are started in.
    """

    options: Options
    k6: K6
    reporter: Reporter
    directory: Path
    root: Path


class Study(Protocol):
    """One question. An instance has no state: what `run` finds is in the section that it returns."""

    name: str
    title: str

    def load_seconds(self, options: Options) -> float:
        """How long its load takes, for the progress bar."""

    def run(self, context: Context) -> dict[str, Any]:
        """Start its servers, load them in interleaved rounds, stop them; the section, ready for JSON.

        Raises:
            BenchError: it can't run.
        """

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        """The tables of a section."""

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        """What the section says, in a sentence each; also what was wished for and not reached, and by how much."""
