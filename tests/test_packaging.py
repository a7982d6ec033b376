"""What is built from the sources, in real and isolated builds of a copy of them; and what a failed build says."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import setuptools

from molt_accel import Config, __version__
from molt_accel.errors import NoSharedMemory
from molt_accel.ipc.shm import arena as arenas
from molt_accel.transports.opening import open_transport
from molt_accel.transports.stdio import StdioTransport
from tests.support import ROOT

SOURCES = (
    *("molt_accel", "molt_worker"),
    *("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in"),
    *("README.md", "CHANGELOG.md", "ARCHITECTURE.md", "LICENSE"),
)
#: What the archive has and git has not.
MADE_BY_SDIST = {"PKG-INFO"}
#: What git has and the wheel has not: they are for building it.
ONLY_FOR_BUILDING = {
    *(str(file.relative_to(ROOT)) for file in (ROOT / "molt_accel/ipc/shm/core").glob("*.*")),
    *(str(file.relative_to(ROOT)) for file in (ROOT / "molt_accel/ipc/shm/binding").glob("*.pxi")),
    "molt_accel/ipc/shm/_native.pyx",
}
CORE = f"molt_accel/ipc/shm/_native{sysconfig.get_config_var('EXT_SUFFIX')}"
HINT = "apt install gcc libc6-dev python3-dev"

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="nothing is built elsewhere")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the sources, as a checkout has them that other builds have left things in."""
    copy = tmp_path / "sources"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "_native.c")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    for name in (
        CORE,
        "molt_accel/ipc/shm/_native.cpython-39-x86_64-linux-gnu.so",
        "molt_accel/ipc/shm/_native.c",
    ):
        (copy / name).write_text("something that is stale")
    return copy


@pytest.fixture
def python(tmp_path: Path) -> str:
    """The interpreter of an empty virtual environment."""
    venv.create(tmp_path / "env", symlinks=True)
    return str(tmp_path / "env" / "bin" / "python")


def pip(python: str, *arguments: str | Path, cwd: Path, code: int = 0, **environ: str) -> str:
    """Have this interpreter's pip work on another's environment."""
    return run(sys.executable, "-m", "pip", "--python", python, *arguments, cwd=cwd, code=code, **environ)


def run(*command: str | Path, cwd: Path, code: int = 0, **environ: str) -> str:
    """Run a command and return what it printed; fail unless it ends with this exit code."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def files_below(directory: Path) -> set[str]:
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name}


@on_linux
@pytest.mark.slow
def test_a_wheel_made_of_the_source_archive_alone_serves(sources: Path, python: str, tmp_path: Path) -> None:
    tracked = files_below(sources) - {name for name in files_below(sources) if name.endswith((".so", ".c"))}

    # Makes the archive, and then the wheel from what is in the archive.
    printed = run(sys.executable, "-m", "build", cwd=sources)
    assert not re.findall(r"(?:_native\.c|core/\w+\.h):\d+.*warning.*", printed)

    archive, wheel = sorted((sources / "dist").iterdir(), key=lambda path: path.suffix)
    assert archive.name == f"molt_accel-{__version__}.tar.gz"
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames() if packed.getmember(name).isfile()}
    assert {name for name in names if ".egg-info/" not in name} == tracked | MADE_BY_SDIST

    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name == f"molt_accel-{__version__}-{tag}-{tag}-{platform}.whl"
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    packages = {name for name in tracked if name.startswith(("molt_accel/", "molt_worker/"))}
    assert names == (packages - ONLY_FOR_BUILDING) | {CORE}
    assert {
        "molt_accel/py.typed",
        "molt_worker/py.typed",
        "molt_worker/entrypoints/molt_exports.json",
    } < names

    pip(python, "install", wheel, cwd=tmp_path)
    said = run(python, "-I", ROOT / "tests" / "smoke.py", cwd=tmp_path)
    assert said.splitlines()[-1] == f"shm, stdio: {Path(python).parents[1] / site_packages() / 'molt_accel'}"
    command = Path(python).parent / "molt-worker"
    assert run(command, "--version", cwd=tmp_path) == f"molt-worker {__version__}\n"


def site_packages() -> str:
    return f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


@on_linux
@pytest.mark.slow
def test_an_editable_install_is_built_in_place_whatever_was_there(sources: Path, python: str) -> None:
    before = files_below(sources)

    def facts() -> str:
        pip(python, "install", "--no-deps", "-e", ".", cwd=sources)
        return run(
            python, "-c", "from molt_accel.ipc.shm import _native; print(_native.GAUGES)", cwd=Path("/")
        )

    assert facts() == "64\n"
    new = {name for name in files_below(sources) - before if ".egg-info/" not in name}
    assert not new, "an intermediate was left in the checkout"
    header = sources / "molt_accel" / "ipc" / "shm" / "core" / "arena.h"
    header.write_text(header.read_text().replace("#define MOLT_GAUGES 64", "#define MOLT_GAUGES 96"))
    assert facts() == "96\n"
    assert (sources / "molt_accel/ipc/shm/_native.c").read_text() == "something that is stale"


@pytest.fixture
def compilers(tmp_path: Path) -> dict[str, str]:
    """Compilers by what is wrong with them, and with the system around them."""
    without_headers = tmp_path / "cc"
    without_headers.write_text(
        "#!/bin/sh\n"
        'for word; do shift; case $word in -I*/include/python3*) ;; *) set -- "$@" "$word" ;; esac; done\n'
        'exec cc "$@"\n'
    )
    without_headers.chmod(0o755)
    return {"fails": "/bin/false", "missing": "/nonexistent/cc", "no Python.h": str(without_headers)}


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "options", "reason"),
    [
        ("fails", (), "/bin/false"),
        ("missing", ("-e",), "/nonexistent/cc"),
        ("no Python.h", (), "Python.h: No such file or directory"),
    ],
)
def test_a_failed_build_fails_the_installation_and_says_what_to_install(
    compiler: str,
    options: tuple[str, ...],
    reason: str,
    sources: Path,
    python: str,
    compilers: dict[str, str],
) -> None:
    command = ("install", "--no-deps", *options, ".")
    printed = pip(python, *command, cwd=sources, code=1, CC=compilers[compiler])
    assert reason in printed
    assert printed.index(reason) < printed.index("could not be built") < printed.index(HINT)
    assert pip(python, "list", "--format=json", cwd=sources).strip() == "[]"


# -- where nothing is built ----------------------------------------------------------------------------------
@pytest.fixture
def project_setup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, with nothing set up."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    spec = importlib.util.spec_from_file_location("project_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fresh_native() -> Iterator[Callable[[], Any]]:
    """`native`, looking anew; afterwards it does again."""
    arenas.native.cache_clear()
    yield arenas.native
    arenas.native.cache_clear()


def without_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sysconfig.get_config_var
    monkeypatch.setattr(
        sysconfig, "get_config_var", lambda name: 1 if name == "Py_GIL_DISABLED" else real(name)
    )


def test_an_archive_made_where_nothing_is_built_has_the_core_and_its_wheel_is_pure(sources: Path) -> None:
    no_libc = (
        "import os, runpy, sys; os.confstr = lambda _: None; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = ("setup.py", "-q", "sdist", "bdist_wheel")
    run(sys.executable, "-c", f"import sys; sys.argv = {list(words)}; {no_libc}", cwd=sources)
    archive, wheel = sorted((sources / "dist").iterdir(), key=lambda path: path.suffix)
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert names > ONLY_FOR_BUILDING
    assert wheel.name == f"molt_accel-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as packed:
        assert not [name for name in packed.namelist() if name.endswith((".so", ".c", ".h", ".pyx", ".pxi"))]


def with_libc(monkeypatch: pytest.MonkeyPatch, told: str | Exception | None) -> None:
    def confstr(_: str) -> str | None:
        if isinstance(told, Exception):
            raise told
        return told

    monkeypatch.setattr(os, "confstr", confstr)


@on_linux
@pytest.mark.parametrize("libc", ["glibc 2.30", "glibc 2.36", "glibc 3.0"])
def test_the_core_is_built_where_it_can_run(
    libc: str, project_setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_libc(monkeypatch, libc)
    (core,) = project_setup.extensions()
    assert core.name == "molt_accel.ipc.shm._native"
    assert all((ROOT / name).is_file() for name in core.depends)


@pytest.mark.parametrize(
    "told", ["glibc 2.28", "glibc 2.4", "musl 1.2.5", "", None, ValueError("unrecognized configuration name")]
)
def test_nothing_is_built_where_the_c_library_can_not_wait_by_the_monotonic_clock(
    told: str | Exception | None, project_setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with_libc(monkeypatch, told)
    assert project_setup.extensions() == []


@pytest.mark.parametrize("platform", ["darwin", "freebsd14", "win32"])
def test_other_systems_build_nothing_and_auto_means_stdio(
    platform: str, project_setup: ModuleType, fresh_native: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert project_setup.extensions() == []
    with pytest.raises(NoSharedMemory, match="on Linux only"):
        fresh_native()
    assert isinstance(open_transport(Config.load(transport="auto")), StdioTransport)


def test_free_threaded_python_builds_nothing_and_auto_means_stdio(
    project_setup: ModuleType, fresh_native: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    without_gil(monkeypatch)
    assert project_setup.extensions() == []
    with pytest.raises(NoSharedMemory, match="free-threaded Python"):
        fresh_native()
    assert isinstance(open_transport(Config.load(transport="auto")), StdioTransport)
    with pytest.raises(NoSharedMemory, match="free-threaded Python"):
        open_transport(Config.load(transport="shm"))


@on_linux
def test_a_lack_of_the_core_is_told(fresh_native: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import molt_accel.ipc.shm

    monkeypatch.delattr(molt_accel.ipc.shm, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "molt_accel.ipc.shm._native", None)
    with pytest.raises(NoSharedMemory, match=r"core is missing .* reinstall"):
        fresh_native()


def test_builds_that_lack_cython_say_so(project_setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    command = project_setup.BuildNative(setuptools.Distribution({"ext_modules": []}))
    command.extensions = [setuptools.Extension("core", ["core.pyx"])]
    monkeypatch.setattr(project_setup, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="pip install cython"):
        command.run()
