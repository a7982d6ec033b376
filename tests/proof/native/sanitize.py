#!/usr/bin/env python3
"""The shared-memory core and its binding under everything that finds what tests don't see.

Sanitizers of gcc and clang, valgrind, and a death after each instruction. Helgrind and DRD are not among them: they
take C11 atomics for plain accesses, so all that this core does is a race to them; ThreadSanitizer knows atomics. Nor is
the binding under valgrind: an interpreter that was not built for it hides every finding behind its own.
"""

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tests.proof.native import programs  # noqa: E402

INSTALL = "on Debian: apt-get install gcc clang libclang-rt-14-dev valgrind libc6-dbg"
MOODS = ("patient", "impatient", "mortal")
MEMCHECK = ("valgrind", "--quiet", "--error-exitcode=9", "--fair-sched=yes")
#: How long anything here may take before it counts as hanging.
PATIENCE_S = 3600.0


def _must_end_well(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that it printed."""
    if done.returncode == programs.CANNOT:
        raise programs.Missing(done.stdout.strip())
    if done.returncode:
        raise AssertionError(f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return (done.stdout.strip().splitlines() or [""])[-1]


def _need(tool: str) -> None:
    if not shutil.which(tool):
        raise programs.Missing(f"there is no {tool}")


def check_core(command: str, sanitizer: str, seconds: float, into: Path) -> str:
    """The core's programs as a compiler's sanitizer sees them."""
    flags = programs.SANITIZERS[sanitizer]
    _must_end_well(programs.run(programs.build("core_test", into, flags, command=[command])))
    stress = programs.build("core_stress", into, flags, command=[command])
    said = [
        _must_end_well(programs.run(stress, mood, str(seconds), "7", timeout_s=PATIENCE_S)) for mood in MOODS
    ]
    return said[-1]


def check_core_by_memcheck(seconds: float, into: Path) -> str:
    """The core's programs under valgrind."""
    _need("valgrind")
    flags = ["-O1", "-g"]
    _must_end_well(
        programs.run(programs.build("core_test", into, flags), under=MEMCHECK, timeout_s=PATIENCE_S)
    )
    stress = programs.build("core_stress", into, flags)
    return _must_end_well(
        programs.run(stress, "mortal", str(seconds), "7", under=MEMCHECK, timeout_s=PATIENCE_S)
    )


def step_through(into: Path) -> str:
    """A death after each instruction of every path."""
    program = programs.build("single_step", into, programs.SANITIZERS["plain"])
    done = programs.run(program, timeout_s=PATIENCE_S)
    last = _must_end_well(done)
    print(done.stdout, end="")
    return last


def _build_binding(into: Path, *flags: str) -> Path:
    """The extension, built with such flags."""
    try:
        import Cython  # noqa: F401
    except ImportError as exc:
        raise programs.Missing("there is no Cython") from exc
    environ = {**os.environ, "CFLAGS": " ".join(flags), "LDFLAGS": " ".join(flags)}
    command = [
        sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(into), "--build-temp",
        str(into / "o"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stdout + done.stderr)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return into / "molt_accel" / "ipc" / "shm" / f"_native{suffix}"


def _use_binding(extension: Path, times: int, **environ: str) -> str:
    command = [sys.executable, "-m", "tests.proof.native.test_binding", str(extension), str(times)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONMALLOC": "malloc", **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return _must_end_well(done)


def check_binding_by_address(into: Path) -> str:
    """The binding under AddressSanitizer and UndefinedBehaviorSanitizer."""
    _need("gcc")
    flags = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    libraries = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return _use_binding(
        _build_binding(into, *flags),
        50,
        LD_PRELOAD=" ".join(libraries),
        ASAN_OPTIONS="detect_leaks=0",  # Python frees nothing at its end; test_binding.py looks for leaks
    )


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="for each of the stress runs (default: 10)")
    parser.add_argument("--only", metavar="WORD", default="", help="checks with this in their name")
    parser.add_argument("--list", action="store_true", help="name the checks and end")
    parser.add_argument("--strict", action="store_true", help="what is missing counts as a failure")
    options = parser.parse_args()

    checks: dict[str, Callable[[Path], str]] = {}
    for command, sanitizers in (("gcc", ("thread", "address")), ("clang", ("thread", "address", "memory"))):
        for sanitizer in sanitizers:
            checks[f"core-{sanitizer}-{command}"] = functools.partial(
                check_core, command, sanitizer, options.seconds
            )
    checks["core-memcheck"] = functools.partial(check_core_by_memcheck, options.seconds)
    checks["binding-address"] = check_binding_by_address
    checks["single-step"] = step_through
    checks = {name: check for name, check in checks.items() if options.only in name}
    if options.list:
        print(*checks, sep="\n")
        return 0

    results: list[str] = []
    for name, check in checks.items():
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            try:
                result, said = "ok", check(Path(directory))
            except programs.Missing as exc:
                result, said = "missing", f"{exc}; {INSTALL}"
            except (AssertionError, subprocess.TimeoutExpired) as exc:
                result, said = "FAILED", str(exc)
        results.append(result)
        print(f"{name:20} {result:8} {time.monotonic() - began:6.0f} s  {said}", flush=True)
    if not checks or "FAILED" in results or (options.strict and "missing" in results):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
