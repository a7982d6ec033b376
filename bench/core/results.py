"""Results documents: how each begins, and how its files are written and read."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.core import BenchError
from bench.core.environment import ROOT, git_state, machine

RESULTS = ROOT / "bench" / "results"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of results document. `version` grows when a field changes its meaning or goes."""

    name: str
    prefix: str
    version: int


@dataclass(frozen=True, slots=True)
class Heading:
    """What a results document begins with. Made when the benchmark starts: it keeps the time and the machine's load."""

    kind: Kind
    command: str
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    where: Mapping[str, Any] = field(default_factory=lambda: {"git": git_state(ROOT), "machine": machine()})

    def document(self, *, errors: list[str], warnings: list[str], **sections: Any) -> dict[str, Any]:
        """The document: the heading, then the sections."""
        return {
            "schema_version": self.kind.version,
            "kind": self.kind.name,
            "created_utc": self.created.isoformat(timespec="seconds"),
            "elapsed_s": round(time.monotonic() - self.started, 1),
            "command": self.command,
            "errors": errors,
            "warnings": warnings,
            **self.where,
            **sections,
        }


def stamp_of(document: Mapping[str, Any]) -> str:
    """The part of a file's name that says when the document was made: `20260102T030405Z`."""
    return str(document["created_utc"]).replace("-", "").replace(":", "").replace("+0000", "Z")


def write(document: Mapping[str, Any], stem: Path, renderings: Mapping[str, Callable[[], str]]) -> list[Path]:
    """Writes each rendering to `<stem>.<ending>`, and the document to `<stem>.json`. Returns the paths.

    The files are made beside their place and renamed into it, the JSON last: all of them are there or none, and a JSON
    file means a whole set. Raises OSError when the directory can't be written.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    places = {ending: stem.with_name(f"{stem.name}.{ending}") for ending in (*renderings, "json")}
    with tempfile.TemporaryDirectory(prefix=f".{stem.name}-", dir=stem.parent) as scratch:
        made = Path(scratch)
        for ending, render in renderings.items():
            (made / ending).write_text(render(), encoding="utf-8")
        (made / "json").write_text(dumps(document), encoding="utf-8")
        for ending, place in places.items():
            os.replace(made / ending, place)
    return list(places.values())


def dumps(document: Mapping[str, Any]) -> str:
    """The document as compact JSON: one line, nothing between its parts."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"


def read(path: Path, *kinds: Kind) -> tuple[Kind, dict[str, Any]]:
    """A results document and its kind. Raises BenchError for a file that is none of these kinds."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: can't be read: {error}") from error
    by_name = {kind.name: kind for kind in kinds}
    kind = by_name.get(str(document.get("kind"))) if isinstance(document, dict) else None
    if kind is None:
        raise BenchError(f"{path}: is no result of the {', '.join(by_name)}")
    version = document.get("schema_version")
    if version != kind.version:
        raise BenchError(f"{path}: has schema_version {version}, not {kind.version}; run the benchmark anew")
    return kind, document
