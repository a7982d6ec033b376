"""Deaths after each instruction of the core,
on some short paths; `tests/proof/native/sanitize.py` steps through all.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.proof.native import programs
from tests.proof.native.conftest import Build

#: Ways in which the core could be wrong: what is there, what stands there instead, and the path that must find it.
MUTANTS = {
    "generations don't grow": (
        "uint32_t generation = MOLT_GENERATION(idle) + 1;",
        "uint32_t generation = MOLT_GENERATION(idle);",
        "cancel",
    ),
    "an outcome in two steps": (
        "int answered = molt_step(a, e->channel, e->word, MOLT_WITH_STATE(e->word, state));",
        "int answered = molt_look(a, e->channel) == e->word;\n"
        "    if (answered)\n"
        "        atomic_store(&a->words[e->channel], MOLT_WITH_STATE(e->word, state));",
        "fail",
    ),
    "nobody is woken for a request": (
        "    if (MOLT_STATE(molt_look(a, c->channel)) == MOLT_READY)\n        molt_wake_executor(a);",
        "    (void)a, (void)molt_wake_executor;",
        "announce",
    ),
    "who sleeps doesn't look once more": (
        "    if (atomic_load(watched) == seen && sem_clockwait(",
        "    (void)watched, (void)seen;\n    if (sem_clockwait(",
        "await",
    ),
}


def step_through(program: Path, *paths: str) -> subprocess.CompletedProcess[str]:
    done = programs.run(program, *paths, timeout_s=240)
    if done.returncode == programs.CANNOT:
        pytest.skip(done.stdout.strip())
    return done


def test_a_death_after_any_instruction_leaves_one_outcome_and_a_channel_that_serves(build: Build) -> None:
    done = step_through(build("single_step"), "announce", "claim", "fail")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^(\S+) +(kill|hold|rival|abandon|killing) +(\d+) +(\d+) ", done.stdout, re.MULTILINE)
    assert len(rows) == 9
    for path, fate, instructions, runs in rows:
        assert int(runs) > int(instructions) > 20, (path, fate)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("right", "wrong", "path"), MUTANTS.values(), ids=MUTANTS)
def test_what_is_wrong_is_found(build: Build, tmp_path: Path, right: str, wrong: str, path: str) -> None:
    core = shutil.copytree(programs.CORE, tmp_path / "core")
    (header,) = (file for file in core.glob("*.h") if right in file.read_text())
    text = header.read_text()
    assert text.count(right) == 1
    header.write_text(text.replace(right, wrong))
    done = step_through(build("single_step", core=core), path)
    assert done.returncode not in (0, programs.CANNOT), done.stdout
    assert "instructions (at " in done.stderr
