"""In which order requests are taken up: first come, first served within a class; a class later by a fixed time."""

from __future__ import annotations

import enum
from typing import Final

from molt_accel.durations import NS_PER_S


class Priority(enum.StrEnum):
    """An entrypoint's class."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


#: A request is taken up as if it had come so much later. So a class goes before the next one, but for requests that
#: have waited this much longer: none starves.
DELAY_NS: Final = {Priority.HIGH: 0, Priority.NORMAL: NS_PER_S, Priority.LOW: 2 * NS_PER_S}
