"""Renders the results document as markdown; errors stand in front of every figure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bench.harness.table import Table
from bench.harness.tables import CAVEAT, headlines, tables


def render(document: Mapping[str, Any], picture: str | None = None) -> str:
    """The report as markdown text; `picture` is the file name of the chart beside it."""
    return "\n".join(_lines(document, picture)) + "\n"


def _lines(document: Mapping[str, Any], picture: str | None) -> Iterator[str]:
    yield f"# Demo benchmark, {document['created_utc']}"
    yield ""
    if document["errors"]:
        yield f"**There were errors. Read them before the figures ({len(document['errors'])}):**"
        yield ""
        yield from (f"- **{_escaped(error)}**" for error in document["errors"])
        yield ""
    if document["warnings"]:
        yield "Doubts:"
        yield ""
        yield from (f"- {_escaped(warning)}" for warning in document["warnings"])
        yield ""
    yield from (f"- {_escaped(sentence)}" for sentence in headlines(document))
    yield ""
    yield "Figures are medians over interleaved rounds, with the least and the greatest in parentheses."
    yield CAVEAT
    yield ""
    if picture is not None:
        yield f"![Throughput and latency of the scenarios]({picture})"
        yield ""
    for table in tables(document):
        yield from _table(table)
    yield from _surroundings(document)
    for name, log in document["logs"].items():
        yield from ("", f"## Log of {name}, which had errors", "", "~~~", log.replace("~~~", "~ ~ ~"), "~~~")


def _table(table: Table) -> Iterator[str]:
    yield f"## {table.title}"
    yield ""
    yield "| " + " | ".join(_escaped(column) for column in table.columns) + " |"
    yield "|" + "|".join(":--" if index < table.left else "--:" for index in range(len(table.columns))) + "|"
    for row in table.rows:
        yield "| " + " | ".join(_escaped(cell) for cell in row) + " |"
    yield ""


def _surroundings(document: Mapping[str, Any]) -> Iterator[str]:
    git = document["git"]
    yield "## Where and how"
    yield ""
    state = {True: ", with changes not committed", False: "", None: ", state unknown"}[git["dirty"]]
    yield f"- Commit: {git['commit'] or 'none'}{state}"
    yield f"- Command: `{document['command']}`"
    yield f"- Took {document['elapsed_s']:.0f} s"
    for name in ("machine", "tools", "options"):
        yield f"- {name.capitalize()}: {_pairs(document[name])}"
    yield f"- Fake database: {_pairs(document['configuration']['fake_database'])}"
    for name, values in document["configuration"]["scenarios"].items():
        yield f"- Settings of {name}: {_pairs(values)}"
    for name, values in document["configuration"]["workers"].items():
        yield f"- Worker of {name}, by its own account: {_pairs(values)}"
    client = document["configuration"]["client"]
    if client:
        yield f"- Client and worker, with defaults: {_pairs(client)}"
    yield f"- Stopped: {document['shutdown']['sentence']}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_escaped(_plain(value))}" for name, value in values.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
