"""Renders the results document as markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bench.harness.table import Table
from bench.micro.tables import EXPLANATION, tables


def render(document: Mapping[str, Any], picture: str | None = None) -> str:
    """The report as markdown text; `picture` is the file name of the chart beside it."""
    return "\n".join(_lines(document, picture)) + "\n"


def _lines(document: Mapping[str, Any], picture: str | None) -> Iterator[str]:
    yield f"# What one call costs, {document['created_utc']}"
    yield ""
    for title, sentences in (
        ("**There were errors:**", document["errors"]),
        ("Doubts:", document["warnings"]),
    ):
        if sentences:
            yield title
            yield ""
            yield from (f"- {_escaped(sentence)}" for sentence in sentences)
            yield ""
    yield EXPLANATION
    yield ""
    made = list(tables(document))
    # Whoever opens the report wants to know first whether a call costs what it should.
    yield from _table(made[-1])
    if picture is not None:
        yield f"![Latency by size, and distributions on an idle and on a busy machine]({picture})"
        yield ""
    for table in made[:-1]:
        yield from _table(table)
    yield from _surroundings(document)


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
    for name in ("machine", "tools", "options", "settings"):
        yield f"- {name.capitalize()}: {_pairs(document[name]) or 'none'}"
    for name, values in document["surroundings"].items():
        yield f"- Meanwhile, {name}: {_pairs(values)}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_escaped(_plain(value))}" for name, value in values.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
