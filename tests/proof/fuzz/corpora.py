"""The corpora, one archive for each target, and how they are minimised.

An input stays if it reaches something that no other one does: for the targets in C that is libFuzzer's verdict, for
those in Python see `features`. An input with a hyphen in its name always stays: it is a finding, and its name says what
of. The names of the others are digests.

As a program it minimises archives again, for example after a format has changed:
`python tests/proof/fuzz/corpora.py frames messages --add FILE ...`
"""

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.proof.fuzz import building
from tests.proof.fuzz.coverage_guided.targets import TARGETS as PYTHON_TARGETS

FOLDER = Path(__file__).with_name("corpus")
#: What the Python targets are to reach.
_MEASURED = tuple(str(building.ROOT / name) for name in ("molt_accel", "molt_worker", "tests/proof/fuzz"))

Corpus = dict[str, bytes]


def path_of(target: str) -> Path:
    """Where the archive of a target is."""
    return FOLDER / f"{target}.zip"


def read(target: str) -> Corpus:
    """The inputs of a target by name; none if it has no archive yet."""
    if not path_of(target).exists():
        return {}
    with zipfile.ZipFile(path_of(target)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(target: str, inputs: Mapping[str, bytes]) -> None:
    """Write an archive; the same inputs give the same bytes, on every system."""
    with zipfile.ZipFile(path_of(target), "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(_named(inputs.items()).items()):
            entry = zipfile.ZipInfo(name)  # which stands for the beginning of 1980
            entry.create_system = 3
            archive.writestr(entry, data)


def unpack(target: str, folder: Path) -> Path:
    """Write the inputs of a target as files below a folder. Returns the folder they are in."""
    folder = folder / target
    folder.mkdir(parents=True)
    for name, data in read(target).items():
        (folder / name).write_bytes(data)
    return folder


def files_in(paths: Iterable[Path]) -> Corpus:
    """The inputs that stand in files."""
    return _named((path.name, path.read_bytes()) for path in paths)


def _named(inputs: Iterable[tuple[str, bytes]]) -> Corpus:
    """Each input once, under the name of a finding or its digest."""
    return {
        name if "-" in name else hashlib.sha256(data).hexdigest()[:12]: data for name, data in sorted(inputs)
    }


def minimised(target: str, inputs: Corpus) -> Corpus:
    """The fewest inputs that reach all that these do, as far as a greedy search finds them, and the findings.

    Raises:
        RuntimeError: a target in C can't be built; it needs a clang with libFuzzer (libclang-rt-dev).
    """
    kept = (
        _merged(target, inputs) if target in building.TARGETS else _covering(PYTHON_TARGETS[target], inputs)
    )
    return {**kept, **{name: data for name, data in inputs.items() if "-" in name}}


def _merged(target: str, inputs: Corpus) -> Corpus:
    with tempfile.TemporaryDirectory(prefix="molt-fuzz-") as directory:
        work = Path(directory)
        program = building.build([building.clang() or "clang"], target, work, fuzzer=True)
        for folder in ("before", "after"):
            (work / folder).mkdir()
        for name, data in inputs.items():
            (work / "before" / name).write_bytes(data)
        command = [str(program), "-set_cover_merge=1", str(work / "after"), str(work / "before")]
        subprocess.run(command, capture_output=True, check=True)
        return files_in((work / "after").iterdir())


def _covering(target: Callable[[bytes], object], inputs: Corpus) -> Corpus:
    for data in inputs.values():
        target(data)  # what is done only once isn't an input's
    reached = {name: features(target, data) for name, data in inputs.items()}
    missing = set().union(*reached.values())
    kept: Corpus = {}
    while missing:
        name = min(reached, key=lambda name: (-len(reached[name] & missing), len(inputs[name]), name))
        kept[name] = inputs[name]
        missing -= reached.pop(name)
    return kept


def features(target: Callable[[bytes], object], data: bytes) -> frozenset[tuple[Hashable, ...]]:
    """What an input reaches in a Python target.

    That is steps between lines, with the magnitude of how often each was taken; and, for what is done in C, of which
    type a function's result is, and which exceptions it saw.
    """
    steps: Counter[tuple[Hashable, ...]] = Counter()

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        code, before = frame.f_code, 0
        if not code.co_filename.startswith(_MEASURED):
            return None

        def step(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal before
            if event == "line":
                steps[code, before, frame.f_lineno] += 1
                before = frame.f_lineno
            elif event == "return":
                steps[code, "return", type(argument)] += 1
            elif event == "exception":
                text = re.match("[A-Za-z ]*", str(argument[1]))
                steps[code, before, argument[0], text and text[0]] += 1
            return step

        return step

    tracing = sys.gettrace()
    sys.settrace(enter)
    try:
        target(data)
    finally:
        sys.settrace(tracing)
    return frozenset((*step, count.bit_length()) for step, count in steps.items())


def main() -> None:
    """The command."""
    every = [*building.TARGETS, *PYTHON_TARGETS]
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(every)} (all)")
    parser.add_argument("--add", nargs="+", type=Path, default=[], metavar="FILE", help="inputs to add")
    options = parser.parse_args()
    for target in options.targets or every:
        before = {**read(target), **files_in(options.add)}
        after = minimised(target, before)
        write(target, after)
        print(f"{target}: {len(before)} inputs, {len(after)} kept")


if __name__ == "__main__":
    main()
