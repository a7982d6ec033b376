"""How a client knows that the host that has its request is still there: the host says so again and again."""

from __future__ import annotations

from typing import Final

#: A bridge says so of each request that it has had for half as long, and again after as long as that, in s.
BEAT_S: Final = 1.0
#: A client looks after its calls so often, in s.
LOOK_S: Final = 0.5
#: A request of which nothing was heard for so long, in s, is lost with its host: three beats.
SILENCE_S: Final = 3.0 * BEAT_S + LOOK_S
