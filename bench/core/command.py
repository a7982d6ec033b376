"""What the commands share: the check for missing packages, bounds of options, exit codes, interrupts.

Imports nothing but the standard library at the start, so that a missing package can be named.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from bench.core import BenchError

if TYPE_CHECKING:
    from bench.core.progress import Reporter
    from bench.core.report import Report

DONE, CANNOT_RUN, USAGE, HAD_ERRORS, INTERRUPTED = 0, 1, 2, 3, 130


def need(extra: str, *packages: str) -> None:
    """Ends the program where packages are missing, and names them and the extra that brings them.

    The commands are run by people new to the project: an ImportError from deep inside would tell them less.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        sys.exit(f"The benchmark needs {', '.join(missing)}: pip install -e '.[{extra}]'")


def argument_parser(program: str, about: str | None, **settings: Any) -> argparse.ArgumentParser:
    """A parser whose help keeps the lines of the command's description."""
    return argparse.ArgumentParser(
        prog=program, description=about, formatter_class=argparse.RawDescriptionHelpFormatter, **settings
    )


def add_options(group: Any, *rows: tuple[Any, ...]) -> None:
    """Adds options to a group of a parser: name, type, metavar, help, and the default if there is one."""
    for name, kind, metavar, text, *default in rows:
        shown = f"{text} (%(default)s)" if default else text
        group.add_argument(
            name, type=kind, metavar=metavar, help=shown, default=default[0] if default else None
        )


def names_in(text: str) -> tuple[str, ...]:
    """The parts of `a,b,c`, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def check_names(option: str, given: Sequence[str], known: Iterable[str]) -> None:
    """Raises BenchError unless all names that an option gives are known, and there is at least one."""
    names = list(known)
    unknown = [name for name in given if name not in names]
    if unknown or not given:
        raise BenchError(f"{option} names {', '.join(unknown) or 'nothing'}; known are {', '.join(names)}")


def check_bounds(
    options: Mapping[str, float | None], least: float = 1, most: float = float("inf"), allowed: str = ""
) -> None:
    """Raises BenchError that names the first option out of bounds, its value and what is allowed. None is allowed."""
    for name, value in options.items():
        # Written so that NaN, which is neither below nor above anything, is refused.
        if value is not None and not least <= value <= most:
            shown = f"{value:g}" if isinstance(value, float) else value
            raise BenchError(f"{name} is {shown}, allowed are {allowed or f'whole numbers from {least:g}'}")


class Chosen(Protocol):
    """Options of a benchmark."""

    @property
    def out(self) -> Path: ...


Options = TypeVar("Options", bound=Chosen)


class Session(Protocol):
    """One run of a benchmark."""

    def run(self, command: str) -> dict[str, Any]:
        """Measures everything and returns the results document; `command` is how a user would call it."""


class Output(Protocol):
    """What a benchmark makes of its results document: the module `report.output` of each."""

    def write(self, document: Mapping[str, Any], directory: Path) -> list[Path]:
        """Writes the files and returns their paths."""

    def report_of(self, document: Mapping[str, Any]) -> Report:
        """What the document says."""


def run(
    program: str,
    given: Sequence[str] | None,
    options_of: Callable[[Sequence[str] | None], Options],
    session: Callable[[Options, Reporter], Session],
    output: Output,
) -> int:
    """Runs a benchmark from the command line to the report; returns the exit code.

    Args:
        given: The arguments; None takes those of the process.
        options_of: Makes options of the arguments; raises BenchError for those that aren't allowed.
        session: Makes the run.
    """
    from bench.core.progress import Reporter
    from bench.core.report import show

    def refuse(problem: object) -> None:
        print(f"{program}: {problem}", file=sys.stderr)

    try:
        options = options_of(given)
    except BenchError as error:
        refuse(error)
        return USAGE
    words = sys.argv[1:] if given is None else given
    _interrupt_once()
    reporter = Reporter()
    try:
        with reporter:
            called = shlex.join(["python", f"bench/scripts/{program}", *words])
            document = session(options, reporter).run(called)
            reporter.stage("writing the results")
            files = output.write(document, options.out)
    except BenchError as error:
        refuse(error)
        return CANNOT_RUN
    except OSError as error:
        refuse(f"{type(error).__name__}: {error}")
        return CANNOT_RUN
    except KeyboardInterrupt:
        refuse("interrupted; all it started is stopped, nothing is written")
        return INTERRUPTED
    show(reporter.console, output.report_of(document), files)
    return HAD_ERRORS if document["errors"] else DONE


def _interrupt_once() -> None:
    """Lets the first interrupt or termination end the run. Later ones would cut its cleaning short and are ignored."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
