"""The executor's loop with a endpoint that follows a script. In a process of its own: it installs handlers."""

import os
import signal
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

import pytest

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.errors import Status
from molt_accel.ipc.frame import Fault, FrameError
from molt_accel.ipc.messages import Codec, Request, Response
from molt_worker import current_request
from molt_worker.entrypoints.exports import Export, ExportTable
from molt_worker.entrypoints.request import StopReason, StopWord
from molt_worker.processes.executor import INTERRUPT_SIGNAL, serve
from molt_worker.processes.handles import StopWords
from molt_worker.processes.late_imports import LateImports
from tests.support.processes import exit_code, fork

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

CONFIG = Config.load(environ={}, log_level="error")
#: The serial of every request here; nothing in their frames says so.
SERIAL = 77


class ScriptedEndpoint:
    """Gives out what it was made with, and keeps the answers."""

    serial = SERIAL

    def __init__(self, *items: Request | FrameError) -> None:
        self.items = deque(items)
        self.answers: list[tuple[int, Response]] = []
        self.announced = 0
        self.gone = False

    def announce(self) -> None:
        self.announced += 1

    def receive(self) -> Request | FrameError | None:
        return self.items.popleft() if self.items else None

    def answer(self, request: Request, response: Response) -> None:
        if self.gone:
            raise BrokenPipeError
        self.answers.append((request.request_id, response))


def request(request_id: int, entry: str, payload: object = None) -> Request:
    return Request(request_id, entry, codec.encode(Codec.MSGPACK, payload))


def in_child(check: Callable[[], object]) -> None:
    assert exit_code(fork(check)) == 0


def serving(
    endpoint: ScriptedEndpoint,
    *functions: Callable[[object], object],
    word: StopWord | None = None,
    in_project: bool = False,
) -> int:
    exports = ExportTable(
        Export(function.__name__, "m:f", Codec.MSGPACK, Codec.MSGPACK, function) for function in functions
    )
    word = word or StopWords(1).word_of(0)
    return serve(endpoint, exports, word, 3, CONFIG, LateImports(), in_project=in_project)


def echo(payload: object) -> object:
    return payload


def test_it_announces_itself_answers_in_order_and_exits_when_there_is_no_more() -> None:
    def check() -> None:
        endpoint = ScriptedEndpoint(request(1, "echo", "a"), request(2, "nothing"), request(3, "echo", "b"))
        assert serving(endpoint, echo) == 0
        assert endpoint.announced == 1
        assert [request_id for request_id, _ in endpoint.answers] == [1, 2, 3]
        assert [response.status for _, response in endpoint.answers] == [
            Status.OK,
            Status.INTERNAL_ERROR,
            Status.OK,
        ]
        assert {response.executor for _, response in endpoint.answers} == {3}

    in_child(check)


def test_what_cant_be_read_is_answered_under_the_id_that_it_claims() -> None:
    def check() -> None:
        endpoint = ScriptedEndpoint(FrameError(Fault.CODEC, "9", 5, 6), request(7, "echo"))
        assert serving(endpoint, echo) == 0
        (refused_id, refused), (_, served) = endpoint.answers
        assert (refused_id, refused.request_id, refused.generation) == (5, 5, 6)
        assert refused.status is Status.INVALID_INPUT
        assert codec.decode(Codec.MSGPACK, refused.payload)["detail"] == "unknown codec: 9"
        assert served.status is Status.OK

    in_child(check)


def test_when_nobody_waits_for_the_answer_it_exits_in_peace() -> None:
    def check() -> None:
        endpoint = ScriptedEndpoint(request(1, "echo"), request(2, "echo"))
        endpoint.gone = True
        assert serving(endpoint, echo) == 0
        assert len(endpoint.items) == 1

    in_child(check)


def test_the_stop_word_knows_requests_by_the_serials_of_the_endpoint() -> None:
    def check() -> None:
        word = StopWords(1).word_of(0)
        seen: list[bool] = []

        def stop_another(payload: object) -> None:
            word.stop(SERIAL + 1, StopReason.CANCELLED)
            os.kill(os.getpid(), INTERRUPT_SIGNAL)
            seen.append(current_request().cancelled)

        def stop_this(payload: object) -> None:
            word.stop(SERIAL, StopReason.CANCELLED)
            signal.raise_signal(INTERRUPT_SIGNAL)
            seen.append(True)  # not reached

        endpoint = ScriptedEndpoint(request(1, "stop_another"), request(2, "stop_this"))
        assert serving(endpoint, stop_another, stop_this, word=word) == 0
        assert [response.status for _, response in endpoint.answers] == [Status.OK, Status.CANCELLED]
        assert seen == [False]

    in_child(check)


def test_a_request_of_a_project_begins_and_ends_in_a_context_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: ContextVar[list[str]] = ContextVar("seen")

    class Requests:
        def __init__(self, say: object) -> None:
            pass

        def begin(self, metadata: bytes) -> None:
            seen.set([*seen.get([]), f"begin {metadata!r}"])

        def end(self, entry: str) -> None:
            ended.append([*seen.get([]), f"end {entry}"])

    def echo(payload: object) -> object:
        seen.set([*seen.get([]), "echo"])
        return payload

    ended: list[list[str]] = []
    monkeypatch.setattr("molt_worker.entrypoints.project.Requests", Requests)

    def check() -> None:
        endpoint = ScriptedEndpoint(request(1, "echo"), request(2, "echo"))
        assert serving(endpoint, echo, in_project=True) == 0
        assert ended == [["begin b''", "echo", "end echo"]] * 2

    in_child(check)


def test_what_ends_a_request_of_a_project_comes_before_its_answer_and_not_in_a_forked_child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"

    class Requests:
        def __init__(self, say: object) -> None:
            pass

        def begin(self, metadata: bytes) -> None:
            assert not ended.exists()

        def end(self, entry: str) -> None:
            with ended.open("a") as file:
                file.write(f"{entry} {len(endpoint.answers)}\n")

    def fork_and_return(payload: object) -> None:
        children.append(os.fork())

    children: list[int] = []
    endpoint = ScriptedEndpoint(request(1, "fork_and_return"))
    monkeypatch.setattr("molt_worker.entrypoints.project.Requests", Requests)

    def check() -> None:
        assert serving(endpoint, fork_and_return, in_project=True) == 0
        assert exit_code(children[0]) == 0
        assert ended.read_text() == "fork_and_return 0\n"

    in_child(check)


def test_a_process_that_an_entrypoint_forked_does_not_answer() -> None:
    def check() -> None:
        children: list[int] = []

        def fork_and_return(payload: object) -> None:
            children.append(os.fork())

        endpoint = ScriptedEndpoint(request(1, "fork_and_return"))
        assert serving(endpoint, fork_and_return) == 0
        assert len(endpoint.answers) == 1
        assert children[0] > 0  # else this is the child, which should have ended before
        assert exit_code(children[0]) == 0

    in_child(check)
