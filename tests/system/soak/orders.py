"""What the soak test's clients ask for: kinds of calls, and for each the outcomes that are plausible."""

import base64
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.system.soak.entries import DEATH

#: Largest payload, nearly.
LARGEST = 4 * 1024 * 1024
_BLOB = random.Random(0).randbytes(2 * LARGEST)
_TEXT = base64.b64encode(_BLOB[:LARGEST]).decode()

#: What a kill of somebody else may make of any call that runs.
OF_KILLS = {
    "executors": {"MoltWorkerCrashed"},
    "forkserver": {"MoltWorkerCrashed"},
    "supervisor": {"MoltWorkerUnavailable", "MoltStartFailed"},
    "clients": set[str](),
}


@dataclass(frozen=True, slots=True)
class Order:
    """One call, and how it may end. An outcome is ``Ok``, ``WRONG`` (a reply, but another than expected) or an error's
    class name.

    Attributes:
        expected: The reply that is right.
    """

    kind: str
    entry: str
    payload: Any
    plausible: frozenset[str]
    expected: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def outcome(self, reply: Any) -> str:
        """What a reply is."""
        return "Ok" if reply == self.expected else "WRONG"


def _cut(chance: random.Random) -> tuple[int, int]:
    """Where the payload begins and ends: 0 B to some MiB, most of them small."""
    size = int(2 ** (22 * chance.random() ** 2)) - 1
    start = chance.randrange(LARGEST)
    return start, start + size


def _msgpack(nonce: Any, chance: random.Random) -> Order:
    start, end = _cut(chance)
    payload = [nonce, _BLOB[start:end]]
    return Order("msgpack", "echo", payload, frozenset({"Ok"}), payload)


#: What may come of a near deadline. Busy: what is queued would have let it pass.
_IN_TIME_OR_NOT = frozenset({"Ok", "MoltTimeout", "MoltBusy"})


def _json(nonce: Any, chance: random.Random) -> Order:
    start, end = _cut(chance)
    payload = [nonce, _TEXT[start:end]]
    return Order("json", "echo_json", payload, frozenset({"Ok"}), payload, {"codec": "json"})


def _raw(nonce: Any, chance: random.Random) -> Order:
    start, end = _cut(chance)
    payload = repr(nonce).encode() + _BLOB[start:end] if chance.random() < 0.9 else b""
    return Order("raw", "echo_raw", payload, frozenset({"Ok"}), payload, {"codec": "raw"})


def _tight(nonce: Any, chance: random.Random) -> Order:
    """A deadline that is about when the answer is there."""
    timeout_ms = chance.choice([0.01, 0.05, 0.2, 1])
    return Order("tight", "echo", nonce, _IN_TIME_OR_NOT, nonce, {"timeout_ms": timeout_ms})


def _late(nonce: Any, chance: random.Random) -> Order:
    # Ok: who stops it was given no processor in time.
    return Order("late", "sleep", 0.005, _IN_TIME_OR_NOT, "slept", {"timeout_ms": 1 + 2 * chance.random()})


def _checked(nonce: Any, chance: random.Random) -> Order:
    """The caller's check says after a while that nobody wants the answer any more."""
    until = time.monotonic() + 0.02 * chance.random()
    options = {"cancel_check": lambda: time.monotonic() >= until}
    return Order("checked", "check_loop", nonce, frozenset({"MoltCancelled"}), options=options)


def _refused(nonce: Any, chance: random.Random) -> Order:
    return Order("refused", "refuse", nonce, frozenset({"MoltInvalidInput"}))


def _unknown(nonce: Any, chance: random.Random) -> Order:
    return Order("unknown", f"entry {nonce}", nonce, frozenset({"MoltEntryError"}))


def _failing(nonce: Any, chance: random.Random) -> Order:
    return Order("failing", "fail", nonce, frozenset({"MoltInternalError"}))


def _stubborn(nonce: Any, chance: random.Random) -> Order:
    """Ends its executor: with SIGKILL, at deadline and grace time."""
    return Order("stubborn", "stubborn", nonce, _IN_TIME_OR_NOT - {"Ok"}, options={"timeout_ms": 20})


def _dying(nonce: Any, chance: random.Random) -> Order:
    return Order("dying", "die", nonce, frozenset({f"MoltWorkerCrashed {DEATH}"}))


#: Kinds and how often each is drawn, in relation to the others.
_QUIET: dict[Callable[[Any, random.Random], Order], float] = {
    _msgpack: 15, _json: 10, _raw: 15, _tight: 25, _late: 4, _checked: 2, _refused: 5, _unknown: 5,
    _failing: 1,
}  # fmt: skip
#: Those that end executors.
_DEADLY: dict[Callable[[Any, random.Random], Order], float] = {_stubborn: 0.1, _dying: 0.1}


class Orders:
    """Draws orders.

    Args:
        kills: Who is killed meanwhile; none: no order ends an executor either.
    """

    def __init__(self, chance: random.Random, kills: list[str]) -> None:
        makers = _QUIET | (_DEADLY if "executors" in kills else {})
        self._makers, self._weights = list(makers), list(makers.values())
        self._chance = chance
        self._also = frozenset().union(*(OF_KILLS[victim] for victim in kills))

    def draw(self, nonce: Any) -> Order:
        """One of them."""
        (make,) = self._chance.choices(self._makers, self._weights)
        return make(nonce, self._chance)

    def plausible(self, outcome: str, order_says: frozenset[str]) -> bool:
        """Whether a call may have ended like this."""
        return outcome in order_says or outcome.split()[0] in self._also
