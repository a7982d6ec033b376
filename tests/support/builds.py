"""Builds are made once for all tests, whichever process runs them: each costs seconds of a C compiler."""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from molt_worker.compile.record import Record
from tests.support import ROOT
from tests.support import build_project as project

if sys.platform != "linux":
    collect_ignore_glob = ["*"]


class Built(NamedTuple):
    """A project's folder with its build in it."""

    folder: Path
    manifest: Path
    record: Record


def run_build(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`molt-worker build`, as a person runs it."""
    command = [sys.executable, "-m", "molt_worker", "build", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def build_once(folder: Path, cwd: Path, exports: str, *arguments: str, **environment: str) -> Record:
    """Build unless another test process has; one at a time."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        arguments = (exports, "--json", "--build-dir", str(folder / "build"), *arguments)
        done = run_build(*arguments, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Record)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@pytest.fixture(scope="session")
def quick_cc(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A C compiler that does not optimise, whatever it is told; for code of which only the results are looked at."""
    script = tmp_path_factory.mktemp("cc") / "cc"
    script.write_text(f'#!/bin/sh\nexec {sysconfig.get_config_var("CC")} "$@" -O0\n')
    script.chmod(0o755)
    return str(script)


@pytest.fixture(scope="session")
def original(shared_folder: Path, quick_cc: str, pytestconfig: pytest.Config) -> Built:
    """The project, built. Not to be changed. The whole suite has the compilers see all of its modules."""
    whole = pytestconfig.getoption("whole")
    folder = shared_folder / "project"
    with (shared_folder / "project.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            project.write(folder, **({} if whole else project.QUICK))
    environment = {} if whole else {"CC": quick_cc}
    record = build_once(shared_folder / "project-build", folder, project.MANIFEST, **environment)
    return Built(folder, folder / project.MANIFEST, record)


@pytest.fixture
def built(original: Built, tmp_path: Path) -> Built:
    """The project and its build, in a folder of the test's own."""
    folder = tmp_path / "project"
    shutil.copytree(original.folder, folder)
    build = original.folder.parent / "project-build" / "build"
    shutil.copytree(build, folder / "shop" / ".molt-build")
    return Built(folder, folder / project.MANIFEST, original.record)


@pytest.fixture
def in_python(built: Built) -> Callable[[str], str]:
    """Runs a program in the project's folder, in a process of its own; what it prints. It must succeed."""

    def run(program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=built.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def demo_build(shared_folder: Path) -> Path:
    build_once(shared_folder / "demo", ROOT, "demo/molt_worker_app/molt_exports.json")
    return shared_folder / "demo" / "build"


@pytest.fixture(scope="session")
def programs_build(shared_folder: Path) -> Path:
    build_once(shared_folder / "programs", ROOT, "bench/programs/molt_exports.json", "--strict")
    return shared_folder / "programs" / "build"


@pytest.fixture
def import_state() -> Iterator[None]:
    """Takes back what a test does to finders and imported modules."""
    finders, modules, path = sys.meta_path[:], dict(sys.modules), sys.path[:]
    yield
    sys.meta_path[:], sys.path[:] = finders, path
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]
