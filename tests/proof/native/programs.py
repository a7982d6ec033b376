"""Builds and runs the C programs of this directory, with whatever compiler and sanitizer are there."""

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORE = HERE.parents[2] / "molt_accel" / "ipc" / "shm" / "core"
SANITIZERS: dict[str, list[str]] = {
    "plain": ["-O3"],
    "thread": ["-O1", "-g", "-fsanitize=thread"],
    "address": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "memory": ["-O1", "-g", "-fsanitize=memory", "-fno-sanitize-recover=all"],  # clang's only
}
#: Each with what it is built with. Parks of a minute, so that a wake-up that is lost is a hang; a client stalls
#: soon, where one that stalls is what is tested; and no instruction is spent on finding functions.
PROGRAMS: dict[str, list[str]] = {
    "core_stress": ["-DMOLT_PARK_NS=60000000000u", "-DMOLT_REST_NS=60000000000u"],
    "core_test": ["-DMOLT_STALL_NS=50000000u"],
    "single_step": ["-Wl,-z,now"],
}
#: What single_step ends with where it can't be run.
CANNOT = 77


class Missing(Exception):
    """What it takes is not here; the text says what."""


def compiler() -> list[str]:
    """The command of the C compiler at hand."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    for candidate in (command, ["cc"], ["gcc"], ["clang"]):
        if shutil.which(candidate[0]):
            return candidate
    raise Missing("there is no C compiler")


def build(
    name: str, into: Path, flags: Sequence[str], *, command: Sequence[str] = (), core: Path = CORE
) -> Path:
    """Compile a program, without warnings.

    Args:
        name: A key of `PROGRAMS`.
        into: The directory for it.
        flags: For instance of `SANITIZERS`.
        command: The compiler; by default the one at hand.
        core: The directory of the core's headers.

    Raises:
        Missing: there is no such compiler or sanitizer, or what it makes doesn't run here.
    """
    command = command or compiler()
    if not shutil.which(command[0]):
        raise Missing(f"there is no {command[0]}")
    with tempfile.TemporaryDirectory() as directory:
        probe = Path(directory, "probe.c")
        probe.write_text("int main(void) { return 0; }\n")
        built = _compile(command, [*flags, str(probe), "-o", str(probe.with_suffix(""))])
        if built.returncode or subprocess.run([probe.with_suffix("")], capture_output=True).returncode:
            raise Missing(f"{command[0]} {shlex.join(flags)} makes no program that runs here")
    program = into / name
    done = _compile(
        command,
        [
            "-Wall", "-Wextra", *PROGRAMS[name], *flags, f"-I{core}", str(HERE / f"{name}.c"), "-o",
            str(program),
        ],
    )  # fmt: skip
    warned = [line for line in done.stderr.splitlines() if "warning:" in line and "[-Wtsan]" not in line]
    if done.returncode or warned:
        raise AssertionError(f"{name} was not compiled as it should be:\n{done.stderr}")
    return program


def _compile(command: Sequence[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, "-std=c11", *arguments, "-lpthread"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run(
    program: Path, *arguments: str, under: Sequence[str] = (), timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a program, under another one if that is given; how it ended, and what it printed."""
    environ = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run(
        [*under, str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environ,
        check=False,
    )
