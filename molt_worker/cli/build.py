"""The command ``molt-worker build``: compiles exports ahead of time, and reports on each module."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from molt_accel.config import Config, ConfigError
from molt_worker.compile import record as compiled
from molt_worker.compile.attempts import BuildError
from molt_worker.compile.compiler import build
from molt_worker.compile.record import CompiledError, Record
from molt_worker.entrypoints.exports import ExportsError, look_in
from molt_worker.entrypoints.project import exports_of


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="molt-worker build",
        description="Compiles the modules of exports to native code (mypyc), ahead of time. Workers take the result\n"
        "if it is of the same sources and the same Python; see --compiled of molt-worker --help.",
        epilog="Exit codes: 0 built, or up to date; 1 --check found that it isn't, or the build failed; 2 wrong usage\n"
        "or exports. Modules that can't be compiled are named and stay in Python: no error, unless with --strict.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "exports", nargs="?", metavar="EXPORTS", help="manifest or package.module [MOLT_EXPORTS]"
    )
    parser.add_argument("--build-dir", metavar="DIR", help="where builds are kept [MOLT_BUILD_DIR]")
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to do with the build of given exports."""
    parser.add_argument("--check", action="store_true", help="build nothing; say if the build is up to date")
    parser.add_argument("--strict", action="store_true", help="fail if a module is left in Python")
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="MODULE",
        help="compile this module or package too, if the exports import it; repeatable",
    )
    parser.add_argument(
        "--verify",
        type=Path,
        metavar="CALLS",
        help="run the calls of this file in Python and compiled, and leave modules in Python that answer otherwise:\n"
        'JSON lines such as {"entry": "items", "payload": {"id": 1}}',
    )
    parser.add_argument("--force", action="store_true", help="build anew what is up to date")
    parser.add_argument("--json", action="store_true", help="print the build's record instead of the report")


def main(arguments: Sequence[str]) -> int:
    """Run ``molt-worker build`` and return its exit code."""
    given = _parser().parse_args(arguments)
    is_new = False
    try:
        look_in([])  # the worker imports from there too
        config = Config.load(exports=given.exports, build_dir=given.build_dir)
        exports = exports_of(config.exports)
        if given.check:
            record = compiled.read_record(path := compiled.record_path(exports, config.build_dir))
            compiled.check_fresh(record, path)
        else:
            record, is_new = build(
                exports, config.build_dir, given.include, given.verify, force=given.force, say=_say
            )
    except (ConfigError, ExportsError, BuildError) as exc:
        _say(str(exc))
        not_built = isinstance(exc, BuildError) or (given.check and isinstance(exc, CompiledError))
        return 1 if not_built else 2
    left = [module for module in record.modules if not module.compiled]
    if given.json:
        print(msgspec.json.encode(record).decode())
    else:
        print(report(record, is_new=is_new))
    return 1 if given.strict and left else 0


def _say(text: str) -> None:
    print(f"molt-worker build: {text}", file=sys.stderr, flush=True)


def report(record: Record, *, is_new: bool) -> str:
    """Return the report: a line for each module with its notes, and a summary."""
    width = max((len(module.where) for module in record.modules), default=0)
    lines = []
    for module in record.modules:
        text = "compiled" if module.compiled else f"left in Python: {module.reason}"
        lines.append(f"{module.where:<{width}}  {text}")
        lines += [f"{'':<{width}}  note: {note}" for note in module.notes]
    count = sum(module.compiled for module in record.modules)
    if record.verified:
        lines.append(f"{record.calls} calls give the same in Python and compiled")
    built = f"built in {record.seconds:.1f} s" if is_new else "up to date"
    lines.append(f"{count} of {len(record.modules)} modules compiled, {built} ({record.compiler})")
    return "\n".join(lines)
