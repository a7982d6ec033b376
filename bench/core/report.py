"""A report, free of markup, and its renderings for the terminal and as markdown. Errors stand before every figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from bench.core import results
from bench.core.tables import Table


@dataclass(frozen=True, slots=True)
class Report:
    """What a results document says.

    Attributes:
        picture: What the picture beside the report shows, for readers who can't see it.
        criteria: First in a file, where readers begin; last on a terminal, where the end is on the screen.
        surroundings: Where and how it was measured, by name.
        logs: The ends of the logs of what had errors, by name.
    """

    title: str
    document: Mapping[str, Any]
    sentences: tuple[str, ...]
    explanation: str
    picture: str
    criteria: Table | None
    tables: tuple[Table, ...]
    surroundings: Mapping[str, Any]
    logs: Mapping[str, str] = field(default_factory=dict)


def markdown(report: Report, picture: str) -> str:
    """The report as markdown text; `picture` is the file name of the picture beside it."""
    return "\n".join(_markdown(report, picture)) + "\n"


def _markdown(report: Report, picture: str) -> Iterator[str]:
    document = report.document
    yield f"# {report.title}, {document['created_utc']}"
    yield ""
    if document["errors"]:
        yield f"**There were errors. Read them before the figures ({len(document['errors'])}):**"
        yield from ("", *(f"- **{_escaped(error)}**" for error in document["errors"]), "")
    if document["warnings"]:
        yield from ("Warnings:", "", *(f"- {_escaped(warning)}" for warning in document["warnings"]), "")
    yield from (f"- {_escaped(sentence)}" for sentence in report.sentences)
    yield from ("", report.explanation, "")
    if report.criteria is not None:
        yield from markdown_table(report.criteria)
    yield from (f"![{report.picture}]({picture})", "")
    for table in report.tables:
        yield from markdown_table(table)
    git = document["git"]
    state = {True: ", with changes not committed", False: "", None: ", state unknown"}[git["dirty"]]
    yield from ("## Where and how", "", f"- Commit: {git['commit'] or 'none'}{state}")
    yield from (f"- Command: `{document['command']}`", f"- Took {document['elapsed_s']:.0f} s")
    for name, values in report.surroundings.items():
        yield f"- {name}: {_pairs(values) if isinstance(values, Mapping) else _escaped(values)}"
    for name, log in report.logs.items():
        yield from ("", f"## Log of {name}, which had errors", "", "~~~", log.replace("~~~", "~ ~ ~"), "~~~")


def markdown_table(table: Table) -> Iterator[str]:
    """The lines of a table under its title."""
    rules = (":--" if index < table.left else "--:" for index in range(len(table.columns)))
    yield from (f"## {table.title}", "", _line(table.columns), f"|{'|'.join(rules)}|")
    yield from map(_line, table.rows)
    yield ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _pairs(values: Mapping[str, Any]) -> str:
    pairs = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items())
    return ", ".join(f"{name} {_escaped(text)}" for name, text in pairs) or "none"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def write(
    document: Mapping[str, Any],
    directory: Path,
    kind: results.Kind,
    picture: Callable[[], str],
    report: Report,
) -> list[Path]:
    """Writes `<prefix of the kind>_<UTC>.svg`, `.md` and `.json`, and returns them. Raises OSError."""
    stem = directory / f"{kind.prefix}_{results.stamp_of(document)}"
    return results.write(document, stem, {"svg": picture, "md": lambda: markdown(report, f"{stem.name}.svg")})


def show(console: Console, report: Report, files: Iterable[Path]) -> None:
    """Prints errors, figures, warnings, what the figures mean, criteria, and where the files are."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    document = report.document
    if document["errors"]:
        say("THERE WERE ERRORS. Read them before the figures:", "bold red")
        for error in document["errors"]:
            say(f"  - {error}", "red")
    for table in report.tables:
        show_table(console, table)
    for warning in document["warnings"]:
        say(f"Warning: {warning}", "yellow")
    for sentence in report.sentences:
        say(sentence, "bold")
    say(report.explanation)
    if report.criteria is not None:
        show_table(console, report.criteria)
    for name in report.logs:
        say(f"The end of {name}'s log is in the files: it had errors.")
    for file in files:
        say(f"Wrote {file}")


def show_table(console: Console, table: Table) -> None:
    """Prints a table."""
    shown = RichTable(
        title=Text(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for index, column in enumerate(table.columns):
        justify: Any = "left" if index < table.left else "right"
        shown.add_column(Text(column), justify=justify, no_wrap=index == 0)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    console.print(shown)
