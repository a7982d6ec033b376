"""The shared-memory core by itself, without Python: built with the C compiler at hand, plain and under sanitizers."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.proof.native import programs
from tests.proof.native.conftest import Build

SANITIZERS = ["plain", "thread", "address"]
SECONDS, SEED = 1.5, 910
if os.environ.get("MOLT_HYPOTHESIS_PROFILE") == "fuzz":
    SECONDS, SEED = 600, int.from_bytes(os.urandom(4)) or 1


def run(program: Path, *arguments: str, timeout_s: float = 120) -> str:
    """What the program printed; fails with all it said unless it ends with 0."""
    done = programs.run(program, *arguments, timeout_s=timeout_s)
    assert done.returncode == 0, f"seed {SEED}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.sample(1)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_each_step_does_what_it_says(build: Build, sanitizer: str) -> None:
    assert run(build("core_test", sanitizer)) == "ok\n"


def test_every_check_of_the_program_is_run() -> None:
    text = (programs.HERE / "core_test.c").read_text()
    defined = re.findall(r"^static void (test_\w+)\(void\) {$", text, re.MULTILINE)
    assert re.findall(r"^    (test_\w+)\(\);$", text, re.MULTILINE) == defined
    assert len(defined) > 25


@pytest.mark.parametrize("header", sorted(file.name for file in programs.CORE.glob("*.h")))
def test_each_header_stands_by_itself_however_often_it_is_included(header: str, tmp_path: Path) -> None:
    try:
        command = programs.compiler()
    except programs.Missing as exc:
        pytest.skip(str(exc))
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{header}"\n#include "{header}"\nint main(void) {{ return 0; }}\n')
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{programs.CORE}"]
    done = subprocess.run([*command, *flags, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.sample(1)
@pytest.mark.parametrize("mood", ["patient", "impatient", "mortal"])
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_threads_lose_nothing_mix_nothing_up_never_hang(build: Build, sanitizer: str, mood: str) -> None:
    said = run(build("core_stress", sanitizer), mood, str(SECONDS), str(SEED), timeout_s=SECONDS + 120)
    counts = {name: int(number) for name, number in re.findall(r"([a-z ]+) (\d+)", said)}
    assert counts["answered"] > 100
    assert (counts[" clients lost"] > 0) == (mood == "mortal")
