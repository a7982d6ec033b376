"""The shared-memory core by itself, without Python: built with the C compiler at hand, plain and under sanitizers."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

HERE = Path(__file__).parent
CORE = ROOT / "molt_accel" / "ipc"
SANITIZERS = {
    "plain": ["-O3"],
    "thread": ["-O1", "-g", "-fsanitize=thread"],
    "address": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
#: Parks of a minute, so that a wake-up that is lost is a hang.
FOR_STRESS = "-DMOLT_PARK_NS=60000000000u"
#: A client stalls soon, where one that stalls is what is tested.
FOR_TEST = "-DMOLT_STALL_NS=50000000u"
SECONDS, SEED = 1.5, 910
if os.environ.get("MOLT_HYPOTHESIS_PROFILE") == "fuzz":
    SECONDS, SEED = 600, int.from_bytes(os.urandom(4)) or 1

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is for Linux")


def compiler() -> list[str]:
    """The C compiler's command. Skips the test where there is none."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    for candidate in (command, ["cc"], ["gcc"], ["clang"]):
        if shutil.which(candidate[0]):
            return candidate
    pytest.skip("there is no C compiler")


Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds a program of this directory. Skips the test where the compiler has no such sanitizer."""

    def run_compiler(source: Path, program: Path, *flags: str) -> str:
        command = [*compiler(), "-std=c11", *flags, f"-I{CORE}", str(source), "-o", str(program), "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def build(name: str, sanitizer: str, *flags: str) -> Path:
        flags = (*flags, *SANITIZERS[sanitizer])
        probe = tmp_path / "probe.c"
        probe.write_text("int main(void) { return 0; }\n")
        try:
            run_compiler(probe, tmp_path / "probe", *flags)
            subprocess.run([tmp_path / "probe"], capture_output=True, timeout=60, check=True)
        except (AssertionError, subprocess.CalledProcessError):
            pytest.skip(f"the compiler has no sanitizer for {sanitizer}, or it doesn't run here")
        warned = run_compiler(HERE / f"{name}.c", tmp_path / name, "-Wall", "-Wextra", *flags)
        assert [line for line in warned.splitlines() if "warning:" in line and "[-Wtsan]" not in line] == []
        return tmp_path / name

    return build


def run(program: Path, *arguments: str, timeout_s: float = 120) -> str:
    """What the program printed; fails with all it said unless it ends with 0."""
    environ = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run(
        [str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environ,
        check=False,
    )
    assert done.returncode == 0, f"seed {SEED}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_each_step_does_what_it_says(build: Build, sanitizer: str) -> None:
    assert run(build("core_test", sanitizer, FOR_TEST)) == "ok\n"


def test_every_check_of_the_program_is_run() -> None:
    text = (HERE / "core_test.c").read_text()
    defined = re.findall(r"^static void (test_\w+)\(void\) {$", text, re.MULTILINE)
    assert re.findall(r"^    (test_\w+)\(\);$", text, re.MULTILINE) == defined
    assert len(defined) > 25


@pytest.mark.parametrize("mood", ["patient", "impatient", "mortal"])
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_many_threads_lose_nothing_mix_nothing_up_and_never_hang(
    build: Build, sanitizer: str, mood: str
) -> None:
    program = build("core_stress", sanitizer, FOR_STRESS)
    said = run(program, mood, str(SECONDS), str(SEED), timeout_s=SECONDS + 120)
    counts = {name: int(number) for name, number in re.findall(r"([a-z ]+) (\d+)", said)}
    assert counts["answered"] > 100
    assert (counts[" clients lost"] > 0) == (mood == "mortal")
