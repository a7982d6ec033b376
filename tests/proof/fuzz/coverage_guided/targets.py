"""Every fuzz target that is written in Python, by name."""

from collections.abc import Callable
from typing import Final

from tests.proof.fuzz.coverage_guided import reading, shared, speaking

Target = Callable[[bytes], None]

TARGETS: Final[dict[str, Target]] = {
    target.__name__: target
    for target in (
        *(reading.frames, reading.codecs, reading.errors, reading.words, reading.manifests, reading.messages),
        *(shared.requests, shared.replies, shared.snapshots, shared.supervision, speaking.clients),
    )
}
