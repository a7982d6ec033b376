"""The fuzz targets that are written in C, and how they are built: for libFuzzer, or to run over files."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
_SOURCES: Final = Path(__file__).with_name("native")
_INCLUDES: Final = [
    f"-I{ROOT / 'molt_accel' / 'ipc' / 'shm' / 'core'}",
    f"-I{ROOT / 'tests' / 'proof' / 'native'}",
    f"-I{_SOURCES}",
]
_CHECKED: Final = "address,undefined"
#: The C targets, and the longest input that is worth trying.
TARGETS: Final = {"ring": 256, "arena": 96, "handover": 128}


def clang() -> str | None:
    """The newest clang that is installed."""
    names = ["clang", *(f"clang-{version}" for version in range(30, 10, -1))]
    return next((name for name in names if shutil.which(name)), None)


def build(compiler: list[str], target: str, directory: Path, *, fuzzer: bool) -> Path:
    """Compile a target with the sanitizers that there are for memory and undefined behaviour.

    Raises:
        RuntimeError: it can't be; the text is the compiler's.
    """
    program = directory / target
    sources = [_SOURCES / f"{target}.c"] + ([] if fuzzer else [_SOURCES / "replay.c"])
    sanitizers = f"fuzzer,{_CHECKED}" if fuzzer else _CHECKED
    flags = [
        "-std=c11", "-O2", "-g", "-Wall", "-Wextra", f"-fsanitize={sanitizers}",
        "-fno-sanitize-recover=all",
    ]  # fmt: skip
    command = [*compiler, *flags, *_INCLUDES, *map(str, sources), "-o", str(program), "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return program
