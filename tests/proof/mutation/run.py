"""Puts deliberate faults into the code, one at a time, and sees whether a test notices.

    python tests/proof/mutation/run.py --sample 60 --seed 1
    python tests/proof/mutation/run.py 'molt_accel/ipc/*' native

Each fault is put into a copy of the tree. The run fails if one survives that survivors.toml doesn't explain: then write
a test that notices it, or say there why none needs to.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import os
import queue
import random
import signal
import sys
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from rich.console import Console
from rich.table import Table

from bench.core.progress import Reporter
from tests.proof.mutation import survivors
from tests.proof.mutation.modules import modules
from tests.proof.mutation.mutants import Mutant, in_module, patches, sample
from tests.proof.mutation.trees import Baselines, Ran, Tree

NATIVE: Final = "native"


def chosen(names: Sequence[str], size: int | None, seed: int) -> list[Mutant]:
    """The mutants to run, of each module in turn."""
    sources: dict[str, Iterator[Mutant]] = {}
    for module in modules():
        # Each module has chance of its own, so that its mutants don't hang on which others are chosen.
        sources[module] = in_module(module, random.Random(zlib.crc32(module.encode()) ^ seed))
    native = patches()
    random.Random(seed).shuffle(native)
    sources[NATIVE] = iter(native)
    if names:
        sources = {
            name: found
            for name, found in sources.items()
            if any(fnmatch.fnmatch(name, pattern) for pattern in names)
        }
    order = list(sources)
    random.Random(seed).shuffle(order)
    return sample({name: sources[name] for name in order}, size)


class Verdicts:
    """What became of the mutants."""

    def __init__(self) -> None:
        self._accepted = survivors.accepted()
        self.rows: Final[list[dict[str, Any]]] = []

    def add(self, mutant: Mutant, ran: Ran) -> str:
        reason = self._accepted.get(mutant.key, "")
        verdict = "noticed" if ran.failed else "accepted" if reason else "SURVIVED"
        self.rows.append(
            {
                "file": mutant.file,
                "line": mutant.line,
                "where": mutant.where,
                "operator": mutant.operator,
                "before": mutant.before,
                "after": mutant.after,
                "verdict": verdict,
                "by": ran.by,
                "reason": "" if ran.failed else reason,
                "seconds": round(ran.seconds, 1),
            }
        )
        return verdict

    @property
    def survived(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["verdict"] == "SURVIVED"]

    def table(self) -> Table:
        table = Table("module", "mutants", "noticed", "accepted", "survived", title="Deliberate faults")
        counts: dict[str, Counter[str]] = {}
        for row in sorted(self.rows, key=lambda row: row["file"]):
            counts.setdefault(row["file"], Counter())[row["verdict"]] += 1
        counts["all"] = sum(counts.values(), Counter())
        for file, count in counts.items():
            cells = (count.total(), count["noticed"], count["accepted"], count["SURVIVED"])
            table.add_row(file, *map(str, cells))
        return table


def _tell(row: dict[str, Any]) -> str:
    return (
        f"{row['file']}:{row['line']} {row['where']} ({row['operator']})\n"
        f"  - {row['before']}\n  + {row['after'] or '(nothing)'}"
    )


def run(mutants: list[Mutant], jobs: int, console: Console) -> tuple[Verdicts, list[str]]:
    """Run them all. Returns the verdicts, and the tests that fail without a fault, too."""
    verdicts, baselines = Verdicts(), Baselines()
    free: queue.SimpleQueue[Tree] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="molt-mutation-") as name, Reporter(console) as reporter:
        reporter.stage(f"{len(mutants)} mutants, {jobs} at a time")
        reporter.expect(len(mutants))
        folders = [Path(name, str(number)) for number in range(jobs)]
        stop = threading.Event()

        def attempt(mutant: Mutant) -> Ran | None:
            if stop.is_set():
                return None
            tree = free.get()
            try:
                return tree.try_mutant(mutant)
            finally:
                free.put(tree)

        with ThreadPoolExecutor(jobs) as pool:
            trees = list(pool.map(lambda folder: Tree(folder, baselines), folders))
            for tree in trees:
                free.put(tree)
            running = {pool.submit(attempt, mutant): mutant for mutant in mutants}
            try:
                for done in as_completed(running):
                    ran, mutant = done.result(), running[done]
                    if ran is not None:
                        verdict = verdicts.add(mutant, ran)
                        told = f"{verdict}: {mutant.file}:{mutant.line} {mutant.operator} {ran.by}"
                        reporter.done(1, told)
            except BaseException:
                stop.set()
                for tree in trees:
                    tree.interrupt()
                raise
            finally:
                for _ in folders:
                    free.get().close()
    return verdicts, baselines.failing


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "modules",
        nargs="*",
        help=f"only these, as in a shell: 'molt_worker/*'; {NATIVE}: the native core's patches",
    )
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants, from each module in turn")
    parser.add_argument("--seed", type=int, default=0, help="which sample (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--own",
        action="store_true",
        help="run each module's own unit files only, and not what proves its promise",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the report is written, as JSON")
    parser.add_argument("--list", action="store_true", help="say which mutants there are, and run nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for. 0: each mutant was noticed or is accepted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the copies are removed
    parser = make_parser()
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    mutants = chosen(options.modules, options.sample, options.seed)
    if options.own:
        mutants = [dataclasses.replace(mutant, tests=mutant.tests[:1]) for mutant in mutants]
    if not mutants:
        parser.error(f"no module is named so; there are: {NATIVE}, {', '.join(modules())}")
    if options.list:
        for mutant in mutants:
            console.print(
                f"{mutant.file}:{mutant.line} {mutant.operator}: {mutant.before} -> {mutant.after}",
                markup=False,
            )
        return 0
    verdicts, failing = run(mutants, options.jobs, console)
    console.print(verdicts.table())
    for test in failing:
        console.print(f"left out, since it fails without a fault, too: {test}", markup=False)
    for row in verdicts.survived:
        console.print(f"SURVIVED {_tell(row)}", markup=False)
    if options.output:
        document = {"seed": options.seed, "mutants": verdicts.rows, "failing_without": failing}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if verdicts.survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
