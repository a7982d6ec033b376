"""Runs the coverage-guided fuzzers: those in C under libFuzzer, those in Python under atheris.

They start from the archives in tests/proof/fuzz/corpus, which only `--keep` adds to. An input that fails is left in the
working directory; under a name that says what it found, with a hyphen in it, it belongs into the archive of its target,
where every test run replays it: `python tests/proof/fuzz/corpora.py TARGET --add FILE`.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.proof.fuzz import corpora
from tests.proof.fuzz.building import ROOT, TARGETS, build, clang
from tests.proof.fuzz.coverage_guided.targets import TARGETS as PYTHON_TARGETS

_PYTHON_MAX_BYTES = 1200


@dataclass(frozen=True)
class Fuzzing:
    """A target that is ready to be run."""

    name: str
    command: list[str]
    work: Path

    @property
    def found(self) -> Path:
        """The folder for inputs that reach something new."""
        return self.work / "found" / self.name

    def run(self, limit: list[str]) -> list[str]:
        """Fuzz, and give a row of the table; the last cell is empty if nothing was found."""
        print(f"{self.name}: begins", flush=True)
        began_s = time.monotonic()
        seeds = corpora.unpack(self.name, self.work / "seeds")
        self.found.mkdir(parents=True)
        log = self.work / f"{self.name}.log"
        options = [
            "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={self.name}-",
        ]  # fmt: skip
        command = [*self.command, *options, *limit, str(self.found), str(seeds)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with log.open("wb") as out:
            code = subprocess.run(command, stdout=out, stderr=out, env=environment, check=False).returncode
        text = log.read_text(errors="replace")
        runs = int((re.findall(r"number_of_executed_units: (\d+)", text) or ["0"])[-1])
        coverage = (re.findall(r" cov: (\d+)", text) or ["-"])[-1]
        finding = ""
        if code:
            said = re.findall(r"not so: .*|^(?:\w+Error|\w+Exception): .*|SUMMARY: .*", text, re.MULTILINE)
            units = re.findall(r"Test unit written to (\S+)", text)
            finding = " ".join([*said[:1], *units]) or f"exit code {code}: {text[-300:]}"
        seconds = time.monotonic() - began_s
        print(f"{self.name}: {runs:,} executions{'; FOUND ' + finding if finding else ''}", flush=True)
        return [self.name, f"{runs:,}", f"{runs / seconds:,.0f}", coverage, finding]

    def keep(self) -> None:
        """Add what was found to the archive, as far as it reaches something new."""
        inputs = {**corpora.read(self.name), **corpora.files_in(self.found.iterdir())}
        corpora.write(self.name, corpora.minimised(self.name, inputs))


def _prepare(names: list[str], work: Path) -> list[Fuzzing]:
    """Build what has to be built. Exits with a message where something is missing."""
    compiler = clang()
    if compiler is None and any(name in TARGETS for name in names):
        sys.exit("the targets in C need clang; on Debian: apt-get install clang libclang-rt-dev")
    if any(name in PYTHON_TARGETS for name in names) and not importlib.util.find_spec("atheris"):
        sys.exit("the targets in Python need atheris: pip install atheris")
    ready = []
    for name in names:
        if name in TARGETS:
            try:
                program = build([str(compiler)], name, work, fuzzer=True)
            except RuntimeError as exc:
                sys.exit(f"{name} can't be built; is libclang-rt-dev (libclang-rt-*-dev) installed?\n{exc}")
            command = [str(program), f"-max_len={TARGETS[name]}"]
        else:
            module = "tests.proof.fuzz.coverage_guided.guided"
            command = [sys.executable, "-m", module, name, f"-max_len={_PYTHON_MAX_BYTES}"]
        ready.append(Fuzzing(name, command, work))
    return ready


def main() -> int:
    """The command. Returns its exit code: 1 if anything was found."""
    every = [*TARGETS, *PYTHON_TARGETS]
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--targets", nargs="+", choices=every, default=every, metavar="NAME", help=", ".join(every)
    )
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    how_long.add_argument("--runs", type=int, help="executions of each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (1)")
    parser.add_argument("--keep", action="store_true", help="minimise what was found into the corpus")
    options = parser.parse_args()
    limit = [f"-runs={options.runs}"] if options.runs else [f"-max_total_time={options.seconds}"]
    with tempfile.TemporaryDirectory(prefix="molt-fuzz-") as directory:
        ready = _prepare(options.targets, Path(directory))
        with ThreadPoolExecutor(options.jobs) as pool:
            rows = list(pool.map(lambda fuzzing: fuzzing.run(limit), ready))
        if options.keep:
            for fuzzing in ready:
                fuzzing.keep()
    table = [["target", "executions", "per second", "coverage", "finding"], *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    for name, *figures, finding in table:
        numbers = "  ".join(figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True))
        print(f"{name.ljust(widths[0])}  {numbers}  {finding}".rstrip())
    return int(any(row[-1] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
