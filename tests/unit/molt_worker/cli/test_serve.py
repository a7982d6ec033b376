"""The command line: help, version, flags and their variables, and what a wrong one gets."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from molt_accel import Config
from molt_accel.ipc.frame import FrameParser
from molt_accel.ipc.messages import STDIO_FROM_WORKER, StartFailed
from molt_worker.cli import main as cli
from molt_worker.entrypoints import project
from tests.support import EXPORTS
from tests.support.errors import raised

FLAGGED = [field for field in dataclasses.fields(Config) if field.metadata["flag"]]
SAMPLES = {
    "compiled": ("require", "require"),
    "build_dir": ("/srv/build", "/srv/build"),
    "exports": ("tests.support.entrypoints", "tests.support.entrypoints"),
    "log": ("/srv/log", "/srv/log"),
    "log_json": (None, True),
    "log_level": ("debug", "debug"),
    "max_frame_bytes": ("8192", 8192),
}


def notice(data: bytes) -> dict[str, int | str]:
    parser = FrameParser(messages=STDIO_FROM_WORKER)
    parser.feed(data)
    (message,) = parser.frames()
    assert isinstance(message, StartFailed)
    assert not parser.mid_frame
    return message.error


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    configs: list[Config] = []

    def serve(config: Config) -> int:
        configs.append(config)
        return 0

    monkeypatch.setattr("molt_worker.cli.serve._serve_stdio", serve)
    for field in dataclasses.fields(Config):
        monkeypatch.delenv(field.metadata["env"], raising=False)
    return configs


def test_help_names_every_flag_and_its_environment_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert raised(SystemExit, cli.main, ["--help"]).code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in FLAGGED:
        assert field.metadata["flag"] in text
        assert f"[{field.metadata['env']}; default: " in text


@pytest.mark.parametrize("field", FLAGGED, ids=lambda field: field.name)
def test_flag_and_environment_variable_set_the_same_and_the_flag_wins(
    served: list[Config], monkeypatch: pytest.MonkeyPatch, field: dataclasses.Field[object]
) -> None:
    text, value = SAMPLES.get(field.name, ("7", 7))
    flag = [field.metadata["flag"], *([text] if text is not None else [])]
    assert cli.main(["--stdio", *flag]) == 0
    monkeypatch.setenv(field.metadata["env"], text or "1")
    assert cli.main(["--stdio"]) == 0
    monkeypatch.setenv(field.metadata["env"], "" if field.name == "exports" else "0")
    if field.name in ("log_level", "max_frame_bytes", "start_timeout_ms"):
        monkeypatch.setenv(field.metadata["env"], "not allowed")
    assert cli.main(["--stdio", *flag]) == 0
    assert [getattr(config, field.name) for config in served] == [value] * 3


def test_the_variable_replaces_the_stdio_flag(served: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLT_TRANSPORT", "stdio")
    assert cli.main([]) == 0
    assert len(served) == 1


@pytest.mark.parametrize(
    ("arguments", "last_line"),
    [
        ((), "molt-worker: error: say how to serve: --stdio or --shm NAME"),
        (("--nonsense",), "molt-worker: error: unrecognized arguments: --nonsense"),
        (("--executors",), "molt-worker: error: argument --executors: expected one argument"),
        (("--stdio", "extra"), "molt-worker: error: unrecognized arguments: extra"),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_exits_with_2(
    capsys: pytest.CaptureFixture[str], served: list[Config], arguments: tuple[str, ...], last_line: str
) -> None:
    assert raised(SystemExit, cli.main, arguments).code == 2
    assert capsys.readouterr().err.splitlines()[-1] == last_line
    assert served == []


BAD_STARTS = [
    (("--executors", "many"), "executors: 'many' is not allowed; it must be a whole number from 0 to 512"),
    (
        ("--grace-ms", "-1"),
        "grace_ms: '-1' is not allowed; it must be a whole number of ms from 0 to 600000, or a datetime.timedelta",
    ),
    (
        ("--log-level", "loud"),
        "log_level: 'loud' is not allowed; it must be one of debug, info, warning, error",
    ),
    (("--exports", "missing.json"), "missing.json: can't be read: No such file or directory"),
    (("--exports", "no-module"), "no-module: can't be read: No such file or directory"),
]


@pytest.mark.parametrize(("arguments", "what"), BAD_STARTS)
def test_a_bad_value_or_manifest_is_one_line_code_2_and_a_notice_for_the_client(
    capfdbinary: pytest.CaptureFixture[bytes], arguments: tuple[str, ...], what: str
) -> None:
    assert cli.main(["--stdio", *arguments]) == 2
    out, err = capfdbinary.readouterr()
    assert err.decode() == f"molt-worker: {what}\n"
    assert notice(out) == {"error": "MoltStartFailed", "detail": what, "code": "start_failed"}


def test_a_bad_environment_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("MOLT_WORKER_MAX_QUEUE", "lots")
    assert cli.main(["--stdio"]) == 2
    out, err = capfdbinary.readouterr()
    what = "MOLT_WORKER_MAX_QUEUE: 'lots' is not allowed; it must be a whole number from 0 to 65536"
    assert err.decode() == f"molt-worker: {what}\n"
    assert notice(out)["detail"] == what


def test_a_path_that_is_no_utf_8_is_reported_like_any_other(tmp_path: Path) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xff.json"))
    command = [sys.executable, "-m", "molt_worker", "--stdio", "--exports", path]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert notice(done.stdout)["detail"] == f"{tmp_path}/?.json: can't be read: No such file or directory"


@pytest.mark.usefixtures("import_state")
@pytest.mark.parametrize(
    ("arguments", "module", "names"),
    [
        (["--exports", EXPORTS], EXPORTS, ["echo  {}:echo  msgpack", "echo_json  {}:echo_json  json"]),
        ([], "molt_worker.entrypoints.builtin", ["health  {}:health  msgpack", "echo  {}:echo  msgpack"]),
    ],
)
def test_check_imports_the_exports_and_lists_them(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    module: str,
    names: list[str],
) -> None:
    # Another test of this process may have set up a project, whose entrypoints the default would be.
    monkeypatch.setattr(project, "_named", lambda: False)
    assert cli.main(["--check", *arguments]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    lines = [f"{name.format(module)} -> {name.split()[-1]}" for name in names]
    assert (out.splitlines() if not arguments else out.splitlines()[:2]) == lines


@pytest.mark.usefixtures("import_state")
@pytest.mark.parametrize(("name", "top"), [("no_such_module", "no_such_module"), ("no.such.module", "no")])
def test_check_of_what_can_t_be_imported_is_one_line_and_code_2(
    capfd: pytest.CaptureFixture[str], name: str, top: str
) -> None:
    assert cli.main(["--check", "--exports", name]) == 2
    what = f"{name}: can't import {name}: ModuleNotFoundError: No module named '{top}'"
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"molt-worker: {what}; looked in {os.getcwd()}, ")
