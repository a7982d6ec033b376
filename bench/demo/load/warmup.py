"""Before any load: proves that a group's scenarios answer alike, and warms every server up."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.core import BenchError

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """One URL of one scenario, and what is sent to it."""

    scenario: str
    port: int
    path: str
    method: str
    queries: tuple[str, ...]
    body: bytes | None = None
    expect_key: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    content_type: str
    body: bytes


class Session:
    """One kept-open connection to a target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=TIMEOUT_S)

    def ask(self, number: int) -> Answer:
        """Sends the request that iteration `number` of the load sends.

        Raises BenchError when the connection fails.
        """
        target = self._target
        query = target.queries[number % len(target.queries)]
        headers = {"Content-Type": "application/json"} if target.body is not None else {}
        try:
            self._connection.request(
                target.method, f"{target.path}?{query}" if query else target.path, target.body, headers
            )
            response = self._connection.getresponse()
            return Answer(response.status, response.headers.get_content_type(), response.read())
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(
                f"{target.scenario}: {target.path} broke off: {type(error).__name__}: {error}"
            ) from error

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def verify_alike(targets: Sequence[Target]) -> dict[str, Any]:
    """Sends every request of the load once to each target and compares the answers.

    Returns what was compared, for the results file. Raises BenchError that names the first scenario and
    request whose answer is not 200, not JSON, without the expected key, or not equal to the first scenario's.
    """
    first = targets[0]
    digest = hashlib.sha256()
    bytes_equal = True
    with Session(first) as reference_session:
        references = [reference_session.ask(number) for number in range(len(first.queries))]
    parsed = [_good(first, number, answer) for number, answer in enumerate(references)]
    for answer in references:
        digest.update(answer.body)
    for target in targets[1:]:
        with Session(target) as session:
            for number, reference in enumerate(references):
                answer = session.ask(number)
                if _good(target, number, answer) != parsed[number]:
                    raise BenchError(
                        f"{target.scenario} and {first.scenario} answer {_request(target, number)} "
                        f"differently, so there is nothing to compare:\n  {answer.body[:300]!r}\n"
                        f"  {reference.body[:300]!r}"
                    )
                bytes_equal = bytes_equal and answer.body == reference.body
    return {
        "scenarios": [target.scenario for target in targets],
        "requests": len(references),
        "bytes_equal": bytes_equal,
        "body_bytes_mean": round(sum(len(answer.body) for answer in references) / len(references)),
        "sha256": digest.hexdigest(),
    }


def warm_up(target: Target, requests: int, clients: int) -> None:
    """Sends `requests` requests over `clients` connections at once, as the load will.

    Raises BenchError for the first answer that is not good.
    """
    clients = min(clients, requests)
    problems: list[BenchError] = []

    def client(start: int) -> None:
        try:
            with Session(target) as session:
                for number in range(start, requests, clients):
                    if problems:
                        return
                    _good(target, number, session.ask(number), parse=False)
        except BenchError as problem:
            problems.append(problem)

    threads = [threading.Thread(target=client, args=(start,), daemon=True) for start in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def _request(target: Target, number: int) -> str:
    query = target.queries[number % len(target.queries)]
    return f"{target.method} {target.path}{'?' if query else ''}{query}"


def _good(target: Target, number: int, answer: Answer, *, parse: bool = True) -> Any:
    """The parsed body of a good answer; BenchError for any other."""
    what = f"{target.scenario}: {_request(target, number)}"
    if answer.status != 200:
        raise BenchError(f"{what} answered {answer.status}: {answer.body[:300]!r}")
    if not answer.body or target.expect_key.encode() not in answer.body:
        raise BenchError(f"{what} answered without {target.expect_key or 'a body'!r}: {answer.body[:300]!r}")
    if not parse:
        return None
    try:
        return json.loads(answer.body)
    except ValueError as error:
        raise BenchError(f"{what} answered no JSON ({error}): {answer.body[:300]!r}") from error
