"""Broken frames against a live worker: it answers what is valid, once, and nothing else harms it."""

import os
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molt_accel import codec
from molt_accel.errors import Status
from molt_accel.ipc.frame import HEADER_BYTES, VERSION, FrameError, FrameParser, encode
from molt_accel.ipc.messages import STDIO_FROM_WORKER, Codec, Request, Response
from tests.support.driver import COMMAND, MakeDriver, value_of

FUZZING = os.environ.get("MOLT_HYPOTHESIS_PROFILE") == "fuzz"
FRAMES = 2_000_000 if FUZZING else 100_000
LIMIT = 20_000
BATCH = 200
#: Valid requests have these ids; what broken frames claim to be lies below, or anywhere else.
FIRST_ID = 1 << 63
VALID_IDS = range(FIRST_ID, FIRST_ID + FRAMES)
#: Room for what an allocator keeps; a leak of ten bytes a frame would be more.
GROWTH_BYTES = 4 * 1024 * 1024 if not FUZZING else 16 * 1024 * 1024

_BODY = struct.Struct("<BBBBHHQIIQQ10I")
_ENTRIES = [
    b"echo", b"echo_raw", b"nothing", b"__ping__", b"__cancel__", b"__hello__", b"\xff\xfe", b"",
    b"x" * 255,
]  # fmt: skip


class Frames:
    """Makes frames of all kinds of brokenness, each with a length prefix that is right for its bytes."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def broken(self) -> bytes:
        """A frame that is probably not valid, prefix included."""
        make = self._chance.choice(
            (self._noise, self._header, self._mutated, self._mutated, self._truncated, self._oversized)
        )
        return make()

    def _noise(self) -> bytes:
        return self._prefixed(self._chance.randbytes(self._chance.choice((0, 1, 79, 80, 81, 200))))

    def _header(self) -> bytes:
        """Fields of any value, most of them plausible, and an entry and payload that may not fit them."""
        chance = self._chance
        entry = chance.choice(_ENTRIES)
        payload = chance.randbytes(chance.randrange(64))
        body = _BODY.pack(
            chance.choice((VERSION, VERSION, VERSION, 0, VERSION - 1, 255)),
            chance.choice((1, 1, 2, 3, 0, 9)),
            chance.choice((1, 1, 2, 3, 0, 7)),
            chance.choice((0, 0, 0, 1, 6, 77)),
            chance.choice((len(entry), len(entry), chance.getrandbits(16))),
            chance.choice((0, 0, 1, chance.getrandbits(16))),
            chance.getrandbits(62),
            self._word(),
            chance.choice((len(payload), len(payload), chance.getrandbits(32))),
            chance.choice((0, 1, (1 << 64) - 1, chance.getrandbits(64))),
            chance.choice((0, (1 << 64) - 1, chance.getrandbits(64))),
            *(self._word() for _ in range(9)),
            chance.choice((0, 0, 0, 1)),
        )
        return self._prefixed(body + entry + payload)

    def _word(self) -> int:
        return self._chance.choice((0, 1, 0xFFFF_FFFF, self._chance.getrandbits(32)))

    def _mutated(self) -> bytes:
        """A valid request with some of its bytes changed, but for the length and the id."""
        frame = bytearray(encode(self._valid(self._chance.getrandbits(62))))
        for _ in range(self._chance.randrange(1, 5)):
            at = self._chance.randrange(4, len(frame))
            if not 12 <= at < 20:
                frame[at] = self._chance.getrandbits(8)
        return bytes(frame)

    def _truncated(self) -> bytes:
        frame = encode(self._valid(self._chance.getrandbits(62)))
        return self._prefixed(frame[4 : self._chance.randrange(4, len(frame))])

    def _oversized(self) -> bytes:
        """A prefix over the limit and just as many bytes as it says, with something like frames in them."""
        size = LIMIT + self._chance.choice((1, 100, 5000))
        decoy = encode(self._valid(self._chance.getrandbits(62)))
        return struct.pack("<I", size) + (decoy * (size // len(decoy) + 1))[:size]

    def _valid(self, request_id: int) -> Request:
        payload = codec.encode(Codec.MSGPACK, "x" * self._chance.randrange(40))
        return Request(request_id, self._chance.choice(("echo", "nothing")), payload)

    @staticmethod
    def _prefixed(body: bytes) -> bytes:
        return struct.pack("<I", len(body)) + body


def test_a_worker_withstands_broken_frames_and_answers_the_valid(
    make_driver: MakeDriver, often: Callable[[int], int]
) -> None:
    seed = random.SystemRandom().getrandbits(32) if FUZZING else 910
    print(f"seed {seed}")
    frames = Frames(seed)
    driver = make_driver(
        *("--executors", "2", "--max-frame-bytes", str(LIMIT), "--max-queue", "65536", "--log-level", "error")
    )
    pids = driver.pids()
    warm = 0
    count = often(FRAMES)
    for batch in range(count // BATCH):
        good = {FIRST_ID + batch * BATCH + index for index in range(0, BATCH, 20)}
        data = b"".join(
            encode(Request(request_id, "echo", codec.encode(Codec.MSGPACK, request_id)))
            if (request_id := FIRST_ID + batch * BATCH + index) in good
            else frames.broken()
            for index in range(BATCH)
        )
        driver.send_bytes(data)
        for request_id in sorted(good):
            assert value_of(driver.response(request_id)) == request_id, f"seed {seed}"
        # What is left answers broken frames; a second answer to a valid one would be among them.
        assert [frame for frame in driver.received if getattr(frame, "request_id", 0) in VALID_IDS] == [], (
            f"seed {seed}"
        )
        driver.received.clear()
        if batch == count // BATCH // 3:
            driver.ping()
            warm = driver.rss()
    report = driver.wait_idle()
    assert [frame for frame in driver.received if getattr(frame, "request_id", 0) in VALID_IDS] == []
    assert driver.rss() - warm < GROWTH_BYTES
    assert report["bad_frames"] > count // 3
    assert (report["executor_deaths"], report["executors"]["pids"]) == (0, pids)
    assert (report["queue_depth"], report["in_flight"]) == (0, 0)


streams = st.lists(
    st.binary(max_size=200)
    | st.binary(max_size=150).map(lambda body: struct.pack("<I", len(body)) + body)
    | st.integers(0, 255).map(lambda seed: Frames(seed).broken())
    | st.integers(1, 9).map(lambda number: encode(Request(number, "echo", b"\x01"))),
    max_size=12,
).map(b"".join)


@settings(
    max_examples=100 if FUZZING else 8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=streams)
def test_after_any_bytes_and_their_end_a_worker_exits_with_0(data: bytes, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        done = subprocess.run(
            [*COMMAND, "--executors", "1", "--max-frame-bytes", str(LIMIT)],
            input=data,
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, log.read_text()
    assert "supervisor_bug" not in log.read_text()
    parser = FrameParser(messages=STDIO_FROM_WORKER)
    parser.feed(done.stdout)
    answers = parser.frames()
    assert not parser.mid_frame
    assert [item for item in answers if isinstance(item, FrameError)] == []
    statuses = {item.status for item in answers if isinstance(item, Response)}
    assert statuses <= {Status.OK, Status.INVALID_INPUT, Status.CANCELLED, Status.BUSY, Status.TIMEOUT}


def test_the_generator_makes_valid_and_broken_frames_of_every_fault() -> None:
    frames = Frames(1)
    parser = FrameParser(LIMIT)
    faults = set()
    valid = 0
    for _ in range(5000):
        parser.feed(frames.broken())
        for item in parser.frames():
            if isinstance(item, FrameError):
                faults.add(item.fault.name)
            else:
                valid += 1
        assert not parser.mid_frame
    assert faults >= {
        *("EMPTY", "TOO_LARGE", "TRUNCATED", "TRAILING", "VERSION", "KIND"),
        *("CODEC", "STATUS", "FLAGS", "ENTRY"),
    }
    assert 100 < valid < 2500
    assert _BODY.size == HEADER_BYTES
