"""Log lines as text and JSON, and a sink that never blocks on a full stderr."""

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from molt_accel import Config
from molt_worker.runtime import log
from molt_worker.runtime.log import LogSink, format_line
from tests.support.processes import closing_all


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"), (7, "7"), (True, "True"), ("", '""'), ("two words", '"two words"'),
        ("line\nbreak", '"line\\nbreak"'), ('say "x"', '"say \\"x\\""'), ("\udc80", '"\\udc80"'),
        ("\x1b[31m", '"\\u001b[31m"'), ("käse", "käse"),
    ],
)  # fmt: skip
def test_a_text_line_shows_each_value_on_one_line(value: object, shown: str) -> None:
    line = format_line(False, "info", "request", {"value": value, "next": 1}).decode()
    stamp, rest = line[:24], line[24:]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
    assert rest == f" molt-worker info request value={shown} next=1\n"


def test_a_json_line_is_one_object_with_time_level_and_event() -> None:
    line = format_line(True, "error", "failed", {"text": "a\nb\udc80", "n": 3, "path": os})
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    row = json.loads(line)
    assert isinstance(row.pop("ts"), float)
    assert row == {"level": "error", "event": "failed", "text": "a\nb\udc80", "n": 3, "path": str(os)}


@pytest.mark.parametrize("as_json", [True, False])
def test_no_value_floods_the_log_and_both_its_ends_are_kept(as_json: bool) -> None:
    line = format_line(as_json, "error", "raised", {"traceback": "A" * 10_000_000 + "Z"})
    assert len(line) < 17_000
    assert b"[9983617 characters left out]" in line
    assert b"A [" in line
    assert b"AZ" in line


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    for fd in (read_fd, write_fd):
        try:
            os.close(fd)
        except OSError:
            continue


@pytest.fixture
def make_sink() -> Iterator[Any]:
    with closing_all(lambda fd, level="info": LogSink(as_json=True, level=level, fd=fd)) as make:
        yield make


def read_all(fd: int) -> bytes:
    data = b""
    while select.select([fd], [], [], 0)[0]:
        data += os.read(fd, 65536)
    return data


def rows(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_only_lines_of_the_level_or_above_are_written(
    pipe: tuple[int, int], make_sink: Any, level: str, events: list[str]
) -> None:
    sink = make_sink(pipe[1], level)
    for name in ("debug", "info", "warning", "error"):
        sink.log(name, name)
        assert sink.wants(name) is (name in events)
    assert [row["event"] for row in rows(read_all(pipe[0]))] == events


@pytest.mark.parametrize(("level", "written"), [("error", False), ("warning", True)])
def test_executors_keep_to_the_level(capfd: pytest.CaptureFixture[str], level: str, written: bool) -> None:
    log.write_blocking(Config.load(environ={}, log_level=level), "warning", "threads", {"n": 2})
    text = capfd.readouterr().err
    assert text.endswith(" molt-worker warning threads n=2\n") if written else text == ""


def test_a_full_pipe_never_blocks_and_what_it_drops_is_counted(pipe: tuple[int, int], make_sink: Any) -> None:
    sink = make_sink(pipe[1])
    sent = 3000
    for number in range(sent):
        sink.log("info", "request", number=number, filler="x" * 200)
    assert sink.pending
    seen = rows(read_all(pipe[0]))
    while sink.pending:
        sink.flush()
        seen += rows(read_all(pipe[0]))
    numbers = [row["number"] for row in seen if row["event"] == "request"]
    counts = [row["count"] for row in seen if row["event"] == "log_lines_dropped"]
    assert numbers == list(range(len(numbers)))  # the oldest were kept, in order
    assert counts == [sent - len(numbers)]
    assert counts[0] > 0


def test_lines_longer_than_a_pipe_s_room_arrive_in_order(pipe: tuple[int, int], make_sink: Any) -> None:
    sink = make_sink(pipe[1])
    texts = [str(digit) * 15_000 for digit in range(9)]
    for text in texts:
        sink.log("info", "long", text=text)
    data = read_all(pipe[0])
    while sink.pending:
        sink.flush()
        data += read_all(pipe[0])
    assert [row["text"] for row in rows(data)] == texts


def test_the_shared_pipe_stays_blocking_for_those_who_share_it(pipe: tuple[int, int], make_sink: Any) -> None:
    make_sink(pipe[1]).log("info", "hello")
    assert os.get_blocking(pipe[1]) is True


def test_a_reader_that_is_gone_is_no_error(pipe: tuple[int, int], make_sink: Any) -> None:
    sink = make_sink(pipe[1])
    os.close(pipe[0])
    sink.log("info", "nobody reads this")
    assert not sink.pending


def test_a_regular_file_is_appended_to(tmp_path: Any, make_sink: Any) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        make_sink(file.fileno()).log("info", "one")
        os.write(file.fileno(), b"{}\n")
        make_sink(file.fileno()).log("info", "two")
    assert [row.get("event") for row in rows(path.read_bytes())] == ["one", None, "two"]


def forked(check: Callable[[], object]) -> None:
    """Run a check in a process of its own, whose standard error it may change."""
    pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_is_printed_where_nobody_reads_is_dropped_also_by_programs() -> None:
    def check() -> None:
        read_fd, write_fd = os.pipe()
        os.dup2(write_fd, 1)
        os.dup2(write_fd, 2)
        log.mend_stderr()
        os.write(1, b"read")
        assert os.read(read_fd, 10) == b"read"
        os.close(read_fd)
        log.write_blocking(Config(), "error", "something", {})
        os.write(1, b"dropped")
        subprocess.run([sys.executable, "-c", "print('dropped', flush=True)"], check=True)

    forked(check)


def test_a_log_file_that_was_removed_is_made_again_by_each_process(tmp_path: Path) -> None:
    def check() -> None:
        path = tmp_path / "log"
        sink = LogSink(as_json=True, level="info")
        sink.move_to(str(path), bounded=True)
        os.dup2(2, 1)
        path.unlink()
        log.write_blocking(Config(log_json=True), "error", "one", {})
        os.write(1, b"{}\n")
        path.unlink()
        sink.bound()
        sink.log("info", "two")
        assert [row.get("event") for row in rows(path.read_bytes())] == ["two"]

    forked(check)


@pytest.mark.parametrize("read", [True, False])
def test_a_pipe_is_no_log_file(tmp_path: Path, read: bool) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if read else None
    with pytest.raises(OSError, match="it is no regular file"):
        LogSink(as_json=True, level="info").move_to(str(path), bounded=False)
    if fd is not None:
        os.close(fd)
