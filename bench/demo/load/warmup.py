"""Before any load: proves that a group's scenarios answer alike, and warms every server up."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
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


class Alike:
    """Proves that the scenarios of a group answer alike: each against the first that was proved."""

    def __init__(self) -> None:
        self._targets: list[Target] = []
        self._references: list[Answer] = []
        self._bytes_equal = True

    def prove(self, target: Target) -> None:
        """Sends every request of the load once and compares the answers with the first target's.

        Raises BenchError that names the scenario and the first request whose answer is not 200, not JSON, without the
        expected key, or not equal to the first target's.
        """
        with Session(target) as session:
            answers = [session.ask(number) for number in range(len(target.queries))]
        for number, answer in enumerate(answers):
            parsed = _good(target, number, answer)
            if not self._targets:
                continue
            first, reference = self._targets[0], self._references[number]
            if parsed != json.loads(reference.body):
                raise BenchError(
                    f"{target.scenario} and {first.scenario} answer {_request(target, number)} "
                    f"differently, so there is nothing to compare:\n  {answer.body[:300]!r}\n"
                    f"  {reference.body[:300]!r}"
                )
            self._bytes_equal = self._bytes_equal and answer.body == reference.body
        self._references = self._references or answers
        self._targets.append(target)

    def as_json(self) -> dict[str, Any]:
        """What was compared, for the results file."""
        bodies = [answer.body for answer in self._references]
        return {
            "scenarios": [target.scenario for target in self._targets],
            "requests": len(bodies),
            "bytes_equal": self._bytes_equal,
            "body_bytes_mean": round(sum(map(len, bodies)) / len(bodies)),
            "sha256": hashlib.sha256(b"".join(bodies)).hexdigest(),
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
