"""molt_accel.process.identity: what decides who may share a pool."""

import ast
import json
import os
import resource
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from molt_accel.errors import MoltStartFailed
from molt_accel.process import identity


def own(exports: str | None = None, path: list[str] | None = None, unsaid: str = "") -> dict[str, str]:
    return identity.of_this_process(exports, path or [], os.environ, unsaid.split())


@pytest.mark.parametrize(
    "name",
    [
        "DJANGO_SETTINGS_MODULE",
        "DATABASE_URL",
        "LANG",
        "PATH",
        "PYTHONPATH",
        "TZ",
        "SECRET",
        "XDG_DATA_HOME",
        "MOLT_DB",
        "PYTEST_XDIST_WORKER",
    ],
)
def test_all_environment_variables_count_none_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LC_CTYPE", raising=False)  # without any locale, Python has set it
    monkeypatch.setenv(name, "one")
    before = own()
    monkeypatch.setenv(name, "two")
    assert identity.differences(before, own()) == [f"environment variable {name}"]
    monkeypatch.delenv(name)
    assert identity.differences(before, own()) == [f"environment variable {name}"]
    assert "one" not in str(before)
    monkeypatch.setenv(name, "three")
    for pair in (
        (before, own(unsaid=name)),
        (own(unsaid=name), before),
    ):  # one of them says that it doesn't matter
        assert identity.differences(*pair) == []


@pytest.mark.parametrize(
    "name",
    [
        "TERM",
        "SSH_TTY",
        "INVOCATION_ID",
        "SERVER_SOFTWARE",
        "GUNICORN_FD",
        "RUNTIME_DIRECTORY",
        "XDG_SESSION_ID",
        "SUPERVISOR_PROCESS_NAME",
        "RQ_JOB_ID",
        "CELERY_LOG_LEVEL",
        "TRIGGER_TIMER_REALTIME_USEC",
        "VSCODE_IPC_HOOK_CLI",
        "PYTHONUNBUFFERED",
    ],
)
def test_variables_of_terminals_and_services_do_not_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own()
    monkeypatch.setenv(name, "x")
    assert own() == before


def test_a_locale_that_python_has_coerced_does_not_count() -> None:
    def of(**environ: str) -> dict[str, str]:
        return identity.of_this_process(None, [], environ)

    assert of(LC_CTYPE="C.UTF-8") == of()  # a server that embeds Python has none
    assert of(LC_CTYPE="C.UTF-8", LANG="C") == of(LANG="C")
    assert of(LC_CTYPE="de_DE.UTF-8") != of()
    assert of(LC_CTYPE="C.UTF-8", LANG="de_DE.UTF-8") != of(LANG="de_DE.UTF-8")


def test_thousands_of_variables_fit_into_a_message_and_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3000):
        monkeypatch.setenv(f"SHOP_SERVICE_{number}_PORT_8000_TCP_ADDR", "10.0.0.1")
    before = own(unsaid="OTHER")
    assert len(json.dumps(before)) < 10_000
    monkeypatch.setenv("OTHER", "may be anything")
    assert identity.differences(before, own(unsaid="OTHER")) == []
    monkeypatch.setenv("SHOP_SERVICE_7_PORT_8000_TCP_ADDR", "10.0.0.2")
    assert identity.differences(before, own(unsaid="OTHER")) == ["environment"]


def test_all_that_differs_is_listed() -> None:
    variables = [f"environment variable V{number}" for number in range(42)]
    assert identity.listed(["niceness"]) == "niceness"
    assert identity.listed([variables[0], "umask", variables[1]]) == "umask; environment variables: V0, V1"
    assert identity.listed(variables).endswith("V38, V39 and 2 more")


def test_the_working_directory_counts_and_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own()
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert identity.differences(before, own()) == ["working directory"]
    gone.rmdir()
    with pytest.raises(MoltStartFailed, match="working directory is gone"):
        own()


def test_environments_of_one_python_differ_however_alike_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "one"))
    one = own()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "other"))
    assert identity.differences(one, own()) == ["Python"]
    (tmp_path / "other").symlink_to(tmp_path / "one")  # another path to the same
    assert own() == one


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a umask can't be read")
def test_the_umask_counts() -> None:
    before = own()
    umask = os.umask(0o077)
    try:
        assert identity.differences(before, own()) in ([], ["umask"])
        os.umask(0o027)
        assert identity.differences(before, own()) == ["umask"]
    finally:
        os.umask(umask)


def test_exports_count_where_both_say_them() -> None:
    assert identity.differences(own("shop.entrypoints"), own("other")) == ["exports"]
    assert identity.differences(own("shop.entrypoints"), own()) == []
    assert identity.differences(own(path=["/a", "/b"]), own(path=["/b", "/a"])) == ["sys.path"]


def test_the_import_path_is_what_the_process_has_besides_pythons_and_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib, here = tmp_path / "lib", tmp_path / "here"
    for folder in (lib, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    kinds = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")  # the last one: a command's own folder
    own = [sysconfig.get_paths()[kind] for kind in kinds]
    python = [*own, *site.getsitepackages(), f"{own[0]}/lib-dynload"]
    entries = ["", str(here), str(lib), *python, str(tmp_path / "missing"), str(lib)]
    assert identity.import_path(entries) == [str(lib)]


def test_entries_that_are_relative_to_a_directory_that_is_gone_are_gone_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert identity.import_path(["", "src", str(tmp_path)]) == [str(tmp_path)]


def test_a_project_in_its_own_environment_s_folder_is_not_pythons() -> None:
    project = Path(sys.prefix)
    assert identity.import_path([str(project)]) == [os.path.realpath(project)]


def test_what_is_no_text_in_sys_path_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [5, tmp_path, str(tmp_path)])
    assert identity.Inherited().path == [str(tmp_path)]


GRANTED = """
from molt_accel.process import identity
print(identity.of_this_process(None, [], {}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("resource.setrlimit(resource.RLIMIT_CPU, (999, 9999))", "limit of processor time"),
        ("resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**41))", "limit of address space"),
        ("resource.setrlimit(resource.RLIMIT_DATA, (2**40, 2**41))", "limit of data"),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))", "limit of open files"),
        ("os.nice(1)", "niceness"),
        (
            "resource.setrlimit(resource.RLIMIT_NOFILE, (99, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
            "",
        ),
        ("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})", "processors"),
    ],
)
def test_what_the_system_grants_counts(change: str, name: str) -> None:
    if name == "processors" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one processor only")

    def of_another(before: str = "") -> dict[str, str]:
        code = f"import os, resource\n{before}\n{GRANTED}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return dict(ast.literal_eval(done.stdout))

    assert identity.differences(of_another(), of_another(change)) == [name] * bool(name)


NO_FILES = """
import resource
from molt_accel import MoltStartFailed
from molt_accel.process import identity
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
before = identity.of_this_process(None, [], {})
resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
print(identity.import_path(["/usr"]))
try:
    identity.of_this_process(None, [], {})
except MoltStartFailed as exc:
    print(exc)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
print(identity.differences(before, identity.of_this_process(None, [], {})))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")
def test_a_process_that_can_open_no_more_files_is_not_another() -> None:
    done = subprocess.run([sys.executable, "-c", NO_FILES], capture_output=True, text=True, check=True)
    path, error, differing = done.stdout.splitlines()
    assert (path, differing) == ("['/usr']", "[]")
    assert error == "this process's umask can't be read: Too many open files"


def test_the_groups_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = own()
    groups = [*os.getgroups(), 54_321]
    monkeypatch.setattr(os, "getgroups", lambda: groups)
    assert identity.differences(before, own()) == ["groups"]
    in_another_order = own()
    groups.reverse()
    assert identity.differences(in_another_order, own()) == []


def test_a_worker_has_the_identity_of_who_started_it_and_its_children_are_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "_changed", {})
    monkeypatch.setenv("SET_BY_THE_COMMAND", "1")
    mine = own("mine")
    told = {**mine, "niceness": "the starter's", "exports": "the starter's"}
    del told["environment variable SET_BY_THE_COMMAND"]
    monkeypatch.setenv(identity.STARTER, json.dumps(told))
    theirs = {**told, "exports": mine["exports"]}  # what it exports is said on its own command line
    assert identity.of_starter(mine) == theirs
    assert identity.STARTER not in os.environ
    assert own("mine") == theirs


def test_users_and_processors_count_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    before = own()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1})  # as many, but others
    assert identity.differences(before, own()) == ["processors"]
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    assert identity.differences(before, own()) == ["processors", "user"]


def test_so_many_files_may_be_opened_as_the_hard_limit_lets_but_no_more_than_an_executor_needs() -> None:
    limits = (100, identity.OPEN_FILES + 1, resource.RLIM_INFINITY)
    assert [identity.open_files(limit) for limit in limits] == [100, identity.OPEN_FILES, identity.OPEN_FILES]
