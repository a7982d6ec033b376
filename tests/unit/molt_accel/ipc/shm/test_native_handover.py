"""Requests and replies through the native core: what arrives, what is refused, who may end what."""

import contextlib
import itertools
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molt_accel.errors import Status
from molt_accel.ipc.frame import HEADER_BYTES, PREFIX_BYTES, FrameError, Item, decode, encode
from molt_accel.ipc.messages import Codec, Request, Response
from molt_accel.ipc.shm.layout import (
    NEVER,
    ChannelState,
    Gauge,
    SlotGauge,
    bucket_bounds,
    idle_word,
    serial_of,
    with_state,
)
from tests.support.handover import (
    COUNTER,
    MAX_BYTES,
    RING,
    Running,
    arena_in,
    channel_of,
    claimed,
    core,
    new_arena,
    new_memory,
    one_of_each,
    publish,
    put,
    reply,
    request,
    response,
    slot_of,
    state_on,
)

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
#: What fills a ring exactly, and a byte more or less; nothing; and what streams through it.
SIZES = [0, 1, *(RING - PREFIX_BYTES - HEADER_BYTES - 4 + more for more in (-1, 0, 1)), RING, 5 * RING + 3]


def served(slot: Any, answer: Callable[[Request], Response]) -> Request:
    assert slot.next() == core.REQUEST
    got: Request = slot.receive(MAX_BYTES)
    assert reply(slot, answer(got)) == core.TRANSFERRED
    return got


def call(channel: Any, slot: Any, asked: Request, answer: Response) -> tuple[Request, Response]:
    """A whole call; returns what the executor got and what the client got."""
    executor = Running(lambda: served(slot, lambda _: answer))
    assert channel.publish(asked, 1000, 0) == core.ADMITTED
    assert channel.wait(NEVER) == core.OUTCOME
    got = channel.take()
    return executor.result(), got


# -- what arrives -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("spin_ns", [0, 50_000])
@pytest.mark.parametrize("back", SIZES)
@pytest.mark.parametrize("there", SIZES)
def test_bytes_arrive_whole_whatever_a_ring_holds(there: int, back: int, spin_ns: int) -> None:
    arena = new_arena()
    arena.spin_ns, arena.client_spinners, arena.executor_spinners = spin_ns, 1, 1
    channel, slot = channel_of(arena), slot_of(arena)
    for turn in range(3):  # the same channel again, and again from the ring's beginning
        asked = request(turn, bytes(range(256)) * (there // 256) + b"q" * (there % 256))
        answer = response(turn, b"a" * (back % 256) + bytes(range(256)) * (back // 256))
        got, came_back = call(channel, slot, asked, answer)
        assert got.payload == asked.payload
        assert came_back == answer
    assert arena.word(0) == idle_word(arena.word(0)) == 3 << 32


requests = st.builds(
    Request,
    request_id=U64,
    entry=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60),
    payload=st.binary(max_size=300),
    codec=st.sampled_from(Codec),
    generation=U32,
    deadline_ns=U64,
    sent_ns=U64,
    max_wait_ms=U32,
)
SPANS = ["queue_us", "decode_us", "handler_us", "encode_us", "exec_us"]
responses = st.builds(
    Response,
    request_id=U64,
    payload=st.binary(max_size=300),
    codec=st.sampled_from(Codec),
    status=st.sampled_from(Status),
    flags=st.sampled_from([0, 1]),
    generation=U32,
    queue_depth=U32,
    in_flight=U32,
    executor=U32,
    **dict.fromkeys(SPANS, U32),
)


@given(requests, responses)
def test_every_field_arrives_as_frame_py_would_have_it(asked: Request, answer: Response) -> None:
    _, channel, slot = one_of_each()
    assert channel.publish(asked, 1000, 0) == core.ADMITTED
    got = served(slot, lambda _: answer)
    assert (got.queue_depth, got.in_flight) == (0, 1)  # stamped at the claim
    got.queue_depth, got.in_flight = asked.queue_depth, asked.in_flight
    assert got == decode(encode(asked)[PREFIX_BYTES:])
    assert channel.wait(0) == core.OUTCOME
    assert channel.take() == decode(encode(answer)[PREFIX_BYTES:])


def test_requests_of_one_slot_have_the_entries_that_they_name_and_share_one_that_comes_again() -> None:
    _, channel, slot = one_of_each()
    names = ["echo", "echo", "echa", "ech", "echoes", "\xe9cho", "\xe9cho", "ec\0o", "ec\0a", "echo"]
    asked = [Request(number, "".join(name)) for number, name in enumerate(names)]
    got = [call(channel, slot, each, response(each.request_id))[0].entry for each in asked]
    assert got == names
    assert [before is after for before, after in itertools.pairwise(got)] == [
        before == after for before, after in itertools.pairwise(names)
    ]


def test_a_request_is_told_how_many_are_queued_behind_and_run_beside_it() -> None:
    arena = new_arena(channels=6, slots=3)
    for index in range(6):
        publish(channel_of(arena, index))
    stamped = []
    for slot in (slot_of(arena, index) for index in range(3)):
        assert slot.next() == core.REQUEST
        frame = slot.receive(MAX_BYTES)
        stamped.append((frame.queue_depth, frame.in_flight))
    assert stamped == [(5, 1), (4, 2), (3, 3)]


# -- what is refused --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "bad",
    [
        request(entry=""), request(entry="x" * 256), request(entry="\N{SNOWMAN}" * 86),
        request(entry="\ud800"), request(payload=b"x" * 1000),
    ],
    ids=["empty", "long", "long in UTF-8", "no Unicode", "large"],
)  # fmt: skip
def test_a_frame_that_frame_py_refuses_is_not_published(bad: Request) -> None:
    arena = new_arena()
    channel = channel_of(arena, max_bytes=1000)
    with pytest.raises(FrameError):
        encode(bad, 1000)
    assert channel.publish(bad, 1000, 0) == core.BAD_FRAME
    assert arena.word(0) == 0
    assert channel.publish(request(), 1000, 0) == core.ADMITTED


def test_an_object_of_another_class_with_the_fields_of_a_request_is_one_too() -> None:
    class Like:
        def __init__(self, request: Request) -> None:
            for name in request.__struct_fields__:
                setattr(self, name, getattr(request, name))

    arena = new_arena()
    channel, slot = channel_of(arena), slot_of(arena)
    sent = Request(5, "echo", b"abc", Codec.RAW, deadline_ns=NEVER - 1, sent_ns=3, max_wait_ms=7)
    assert channel.publish(Like(sent), 9, 0) == core.ADMITTED
    assert slot.next() == core.REQUEST
    got = slot.receive(MAX_BYTES)
    assert [
        getattr(got, name) for name in ("request_id", "payload", "codec", "deadline_ns", "max_wait_ms")
    ] == [getattr(sent, name) for name in ("request_id", "payload", "codec", "deadline_ns", "max_wait_ms")]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (request(payload=memoryview(b"x")), TypeError),  # type: ignore[arg-type]
        (request(payload=None), TypeError),  # type: ignore[arg-type]
        (request(entry=b"x"), TypeError),  # type: ignore[arg-type]
        (request(entry=None), TypeError),  # type: ignore[arg-type]
        (request(number=-1), OverflowError),
        (request(number=2**64), OverflowError),
        (request(deadline_ns=-1), OverflowError),
        (request(max_wait_ms=2**32), OverflowError),
        ("a frame", AttributeError),
        (None, TypeError),
    ],
)
def test_what_is_no_frame_at_all_raises_and_is_not_published(bad: Any, error: type[Exception]) -> None:
    arena = new_arena()
    channel = channel_of(arena)
    with pytest.raises(error):
        channel.publish(bad, 1000, 0)
    assert arena.word(0) == 0


def test_a_reply_that_is_too_large_is_not_begun_and_can_be_replaced() -> None:
    arena, channel, slot = claimed()
    slot.receive(MAX_BYTES)
    assert slot.reply(response(payload=b"x" * 1000), 1000, COUNTER) == core.BAD_FRAME
    assert (state_on(arena), arena.slot_gauge(0, COUNTER)) == (ChannelState.CLAIMED, 0)
    assert slot.reply(response(payload=b"short"), 1000, COUNTER) == core.TRANSFERRED
    assert channel.wait(0) == core.OUTCOME
    assert channel.take() == response(payload=b"short")


def test_a_request_over_the_worker_s_limit_is_not_read() -> None:
    _, channel, slot = claimed(b"x" * 500)
    with pytest.raises(core.Corrupt, match="a request of 584 bytes, 583 at most"):
        slot.receive(583)
    assert slot.fail(4)
    assert (channel.wait(0), channel.take()) == (core.OUTCOME, 4)


def test_a_reply_over_the_client_s_limit_is_not_read() -> None:
    arena = new_arena()
    channel, slot = channel_of(arena, max_bytes=200), slot_of(arena)
    publish(channel)
    served(slot, lambda _: response(payload=b"x" * 121))
    with pytest.raises(core.Corrupt, match="a reply of another size than it says"):
        channel.take()


def _changed(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


def _sizes_agree(data: bytes) -> bool:
    """Whether a frame's length prefix is the sum of what its header says, as far as the core can take it."""
    size, entry, payload = (
        int.from_bytes(data[at : at + width], "little") for at, width in ((0, 4), (8, 2), (24, 4))
    )
    return size == HEADER_BYTES + entry + payload and entry <= 255


def _is_request(body: bytes) -> bool:
    try:
        return isinstance(decode(body), Request)
    except FrameError:
        return False


@pytest.mark.parametrize("value", [0, 1, 2, 3, 4, 7, 0x80, 0xFF])
def test_whatever_byte_of_a_request_is_changed_it_is_what_frame_py_says(value: int) -> None:
    memory = new_memory()
    arena = arena_in(memory)
    channel, slot = channel_of(arena), slot_of(arena)
    sent = request(77, b"payload", "echo")
    good = encode(sent)
    for at in range(PREFIX_BYTES + HEADER_BYTES + len(sent.entry)):
        assert channel.publish(sent, 1000, 0) == core.ADMITTED
        start = memory.find(good[PREFIX_BYTES:]) - PREFIX_BYTES
        bad = _changed(good, at, value)
        memory[start : start + len(bad)] = bad
        assert slot.next() == core.REQUEST
        try:
            got = slot.receive(len(good) - PREFIX_BYTES)
        except core.Corrupt:
            assert not _sizes_agree(bad)  # so nobody knows where it ends
        else:
            assert _sizes_agree(bad)
            if isinstance(got, bytes):
                assert got[:48] + got[56:] == bad[4:52] + bad[60:]  # but for queue_depth and in_flight
                assert not _is_request(got)
            else:
                expected = decode(bad[PREFIX_BYTES:])
                assert isinstance(expected, Request)
                expected.queue_depth, expected.in_flight = 0, 1
                assert got == expected
        assert slot.fail(1)
        assert channel.clear()


@pytest.mark.parametrize("value", [0, 1, 2, 3, 4, 7, 0x80, 0xFF])
def test_whatever_byte_of_a_reply_is_changed_it_is_what_frame_py_says_or_corrupt(value: int) -> None:
    memory = new_memory()
    arena = arena_in(memory)
    channel, slot = channel_of(arena), slot_of(arena)
    answer = response(77, b"a payload that is found")
    good = encode(answer)
    for at in range(PREFIX_BYTES + HEADER_BYTES):
        publish(channel)
        served(slot, lambda _: answer)
        start = memory.find(good[PREFIX_BYTES:]) - PREFIX_BYTES
        bad = _changed(good, at, value)
        memory[start : start + len(bad)] = bad
        assert channel.wait(0) == core.OUTCOME
        expected: Item | None = None
        if _sizes_agree(bad):
            with contextlib.suppress(FrameError):
                expected = decode(bad[PREFIX_BYTES:])
        if isinstance(expected, Response):
            assert channel.take() == expected
        else:
            with pytest.raises(core.Corrupt):
                channel.take()
        assert channel.clear()


def _count_at(memory: Any, value: int) -> int:
    """Where the only word of this value is: a ring's count."""
    word = struct.pack("<Q", value)
    found = [at for at in range(0, len(memory), 64) if memory[at : at + 8] == word]
    assert len(found) == 1
    return found[0]


class Rings:
    """One channel with a request on it, and where its rings' counts are."""

    def __init__(self) -> None:
        self._memory = new_memory(channels=1)
        self.arena = arena_in(self._memory, channels=1)
        self.channel, self.slot = channel_of(self.arena), slot_of(self.arena)
        payload = b"x" * 300
        publish(self.channel, payload=payload)
        request_head = _count_at(self._memory, len(encode(request(payload=payload))))
        line = 64
        self._at = {
            "request head": request_head,
            "request tail": request_head + line,
            "reply head": request_head + 2 * line,
            "reply tail": request_head + 3 * line,
        }
        assert self.slot.next() == core.REQUEST

    def add(self, which: str, more: int) -> None:
        at = self._at[which]
        before = struct.unpack("<Q", self._memory[at : at + 8])[0]
        self._memory[at : at + 8] = struct.pack("<Q", (before + more) % 2**64)


@pytest.mark.parametrize("more", [RING, 2**63, -RING - 1])
def test_an_executor_does_not_follow_counts_that_cant_be(more: int) -> None:
    rings = Rings()
    rings.add("request head", more)
    with pytest.raises(core.Corrupt, match="the request ring of channel 0"):
        rings.slot.receive(MAX_BYTES)
    rings.add("reply tail", more)
    with pytest.raises(core.Corrupt, match="the reply ring of channel 0"):
        reply(rings.slot, response(payload=b"x" * 20_000))
    assert rings.slot.fail(4)
    assert (rings.channel.wait(0), rings.channel.take()) == (core.OUTCOME, 4)


@pytest.mark.parametrize("more", [1, -1, RING, 2**63])
def test_a_client_does_not_follow_counts_that_cant_be(more: int) -> None:
    rings = Rings()
    rings.slot.receive(MAX_BYTES)
    assert reply(rings.slot, response()) == core.TRANSFERRED
    rings.add("reply head", more)
    with pytest.raises(core.Corrupt):
        rings.channel.take()


# -- who may end what -------------------------------------------------------------------------------------
def test_the_states_are_layout_s() -> None:
    assert tuple(map(int, ChannelState)) == core.STATES


@pytest.mark.parametrize(
    ("running", "left", "expected"), [(0, 0, "ADMITTED"), (1, 0, "BUSY"), (1, 1, "WAITING")]
)
def test_where_a_queue_has_no_places_an_idle_executor_is_one(running: int, left: int, expected: str) -> None:
    arena = new_arena(channels=4, slots=1)
    slot = slot_of(arena)
    if running:
        publish(channel_of(arena, 3))
        slot.next()
    assert channel_of(arena).publish(request(), 0, left) == getattr(core, expected)
    assert state_on(arena) is (ChannelState.IDLE if expected == "BUSY" else ChannelState.READY)
    assert arena.ready() == (expected != "BUSY")


def test_as_many_are_admitted_as_there_are_places_and_then_as_many_wait() -> None:
    arena = new_arena(channels=10)
    channels = [channel_of(arena, index) for index in range(10)]
    verdicts = [channel.publish(request(), 3, 2) for channel in channels]
    assert verdicts == [core.ADMITTED] * 3 + [core.WAITING] * 2 + [core.BUSY] * 5
    assert [channel.excess(3) for channel in channels] == [0, 0, 0, 1, 2, 0, 0, 0, 0, 0]
    assert channels[1].give_up() == ChannelState.READY
    assert [channel.excess(3) for channel in channels[:5]] == [0, 0, 0, 0, 1]
    assert channels[3].publish(request(), 3, 2) == core.NOT_IDLE


@pytest.mark.parametrize("only_queued", [False, True])
@pytest.mark.parametrize("state", ChannelState)
def test_giving_up_says_how_it_stood(state: ChannelState, only_queued: bool) -> None:
    arena = new_arena()
    channel = channel_of(arena)
    publish(channel)
    put(arena, 0, with_state(arena.word(0), state))
    assert channel.give_up(only_queued) == state
    ended = {
        ChannelState.READY: ChannelState.IDLE,
        ChannelState.CLAIMED: ChannelState.CLAIMED if only_queued else ChannelState.ABANDONED,
    }
    assert state_on(arena) is ended.get(state, state)


@pytest.mark.parametrize("reason", [None, 0, 2**64 - 1])
def test_an_outcome_is_taken_once(reason: int | None) -> None:
    arena, channel, slot = one_of_each()
    publish(channel)
    if reason is None:
        served(slot, lambda _: response())
    else:
        slot.next()
        assert slot.fail(reason)
    assert channel.wait(NEVER) == core.OUTCOME
    assert channel.take() == (response() if reason is None else reason)
    assert (state_on(arena), channel.take(), channel.clear()) == (ChannelState.IDLE, None, True)


def test_a_client_takes_its_own_generation_only() -> None:
    arena, channel, slot = one_of_each()
    publish(channel)
    served(slot, lambda _: response())
    put(arena, 0, arena.word(0) + (1 << 32))  # of a request that this client never made
    with pytest.raises(core.Corrupt, match="channel 0 is in a state that can't be"):
        channel.wait(0)
    with pytest.raises(core.Corrupt, match="channel 0 has another's generation"):
        channel.take()


@pytest.mark.parametrize("how", ["reply", "fail"])
def test_a_request_that_was_given_up_is_ended_by_its_executor_which_is_idle_then(how: str) -> None:
    arena, channel, slot = claimed()
    slot.receive(MAX_BYTES)
    assert arena.slot_state(0) == core.SLOT_BUSY
    assert channel.give_up() == ChannelState.CLAIMED
    assert not channel.clear()
    if how == "reply":
        assert reply(slot, response()) == core.LOST
    assert not slot.fail(7)  # it has ended, by this or before
    assert (state_on(arena), arena.slot_state(0)) == (ChannelState.IDLE, core.SLOT_IDLE)
    assert channel.clear()


def test_an_executor_that_comes_late_does_not_touch_the_next_request() -> None:
    arena = new_arena()
    channel, late, other = channel_of(arena), slot_of(arena, 0), slot_of(arena, 1)
    publish(channel)
    late.next()
    late.receive(MAX_BYTES)
    channel.give_up()
    late.fail(7)
    publish(channel, 2)
    other.next()
    claimed = arena.word(0)
    assert not late.fail(7)
    assert arena.word(0) == claimed
    assert arena.slot_state(0) == core.SLOT_IDLE
    assert other.receive(MAX_BYTES).request_id == 2
    assert other.fail(8)
    assert (channel.wait(0), channel.take()) == (core.OUTCOME, 8)


@pytest.mark.parametrize(
    ("state", "freed"),
    [
        (ChannelState.IDLE, True), (ChannelState.READY, False), (ChannelState.CLAIMED, False),
        (ChannelState.DONE, True), (ChannelState.FAILED, True), (ChannelState.ABANDONED, False),
        (ChannelState.KILLING, False),
    ],
)  # fmt: skip
def test_clearing_frees_only_what_no_executor_may_touch(state: ChannelState, freed: bool) -> None:
    arena = new_arena()
    channel = channel_of(arena)
    publish(channel)
    word = with_state(arena.word(0), state)
    put(arena, 0, word)
    assert channel.clear() == freed
    assert arena.word(0) == (1 << 32 if freed else word)


# -- order ------------------------------------------------------------------------------------------------
def test_first_come_first_served_whatever_the_channel() -> None:
    arena = new_arena(channels=6)
    order = [4, 0, 5, 2, 1, 3]
    channels = {index: channel_of(arena, index) for index in order}
    for index in order:
        publish(channels[index], index)
    slots = [slot_of(arena, 0), slot_of(arena, 1)]
    got = [served(slots[turn % 2], lambda frame: response(frame.request_id)).request_id for turn in range(6)]
    assert got == order


def test_generations_go_round_and_never_are_0() -> None:
    arena = new_arena()
    put(arena, 0, (2**32 - 2) << 32)
    channel, slot = channel_of(arena), slot_of(arena)
    seen = []
    for _ in range(3):
        publish(channel)
        served(slot, lambda _: response())
        assert channel.wait(0) == core.OUTCOME
        assert channel.take() == response()
        seen.append(channel.generation)
    assert seen == [2**32 - 1, 1, 2]


# -- the executor's slot ----------------------------------------------------------------------------------
def test_a_claim_names_slot_epoch_and_generation() -> None:
    arena = new_arena(channels=4, slots=300)
    channel, slot = channel_of(arena, 3), slot_of(arena, 299, 0xAB)
    publish(channel)
    slot.next()
    assert arena.word(3) == ChannelState.CLAIMED | 299 << 8 | 0xAB << 24 | 1 << 32
    assert (slot.word, slot.channel, slot.serial) == (arena.word(3), 3, 3 << 32 | 1)


@given(st.integers(0, 5), U32)
def test_a_serial_is_the_same_in_both_languages(index: int, generation: int) -> None:
    arena = new_arena(channels=6)
    claim = memoryview(bytearray(8))
    slot = core.Slot(arena, 0, 0, claim)
    put(arena, index, generation << 32 | ChannelState.READY)
    assert arena.mend_marks() == 1
    assert slot.next() == core.REQUEST
    slot.begin(SlotGauge.SERIAL, 0, Gauge.WAKE_NS)
    serial = serial_of(index, generation)
    assert (slot.serial, arena.slot_gauge(0, SlotGauge.SERIAL), claim.cast("Q")[0]) == (serial,) * 3


@pytest.mark.parametrize("index", [core.GAUGES, 2**32 - 1])
def test_a_gauge_that_is_none_is_an_error_and_not_another(index: int) -> None:
    arena, _, slot = claimed()
    slot.receive(MAX_BYTES)
    for use in (
        lambda: arena.gauge(index),
        lambda: arena.set_gauge(index, 1),
        lambda: arena.add_counter(index),
        lambda: slot.begin(SlotGauge.SERIAL, 0, index),
        lambda: arena.slot_gauge(0, index),
        lambda: arena.set_slot_gauge(0, index, 1),
        lambda: slot.reply(response(), MAX_BYTES, index),
        lambda: slot.begin(index, 0, 0),
        lambda: arena.slot_gauge(0, core.SLOT_GAUGES),
        lambda: slot.begin(core.SLOT_GAUGES - 2, 0, 0),  # it stores three
    ):
        with pytest.raises(IndexError, match="no gauge"):
            use()
    assert not any(arena.gauge(each) for each in range(core.GAUGES))
    assert not any(arena.slot_gauge(0, each) for each in range(core.SLOT_GAUGES))
    assert state_on(arena) is ChannelState.CLAIMED


def test_what_runs_is_told_in_facts_of_the_slot() -> None:
    arena = new_arena()
    channel, slot = channel_of(arena), slot_of(arena, 1)
    arena.set_gauge(Gauge.WAKE_NS, 1000)
    publish(channel)
    slot.next()
    before = time.monotonic_ns()
    told = [slot.begin(SlotGauge.SERIAL, deadline, Gauge.WAKE_NS) for deadline in (0, 999, 1000, 1001)]
    assert told == [False, True, False, False]
    assert arena.slot_gauge(1, SlotGauge.SERIAL) == slot.serial == serial_of(0, 1)
    assert arena.slot_gauge(1, SlotGauge.DEADLINE_NS) == 1001
    assert before <= arena.slot_gauge(1, SlotGauge.BEGAN_NS) <= time.monotonic_ns()
    arena.set_gauge(Gauge.WAKE_NS, NEVER)
    assert slot.begin(SlotGauge.SERIAL, NEVER - 1, Gauge.WAKE_NS)


@settings(max_examples=30)
@given(st.lists(st.tuples(U32, U32), min_size=1, max_size=20))
def test_answers_are_counted_with_their_times(times: list[tuple[int, int]]) -> None:
    arena, channel, slot = one_of_each()
    queue, runs = arena.histograms(0)
    assert (set(queue), set(runs), len(queue)) == ({0}, {0}, core.BUCKETS)
    for number, (queue_us, exec_us) in enumerate(times):
        publish(channel)
        slot.next()
        slot.receive(MAX_BYTES)
        reply(slot, response(queue_us=queue_us, exec_us=exec_us))
        assert arena.slot_gauge(0, COUNTER) == number + 1
        channel.take()
    for counts, values in zip(arena.histograms(0), zip(*times, strict=True), strict=True):
        assert sum(counts) == len(times)
        for bucket, count in enumerate(counts):
            low, high = bucket_bounds(bucket)
            last = bucket == core.BUCKETS - 1
            assert count == sum(low <= value and (value < high or last) for value in values)


def test_a_slot_is_made_ready_for_another_executor_and_its_counts_go_on() -> None:
    arena, channel, slot = one_of_each()
    publish(channel)
    served(slot, lambda _: response())
    arena.retire(0)
    arena.set_slot_gauge(0, SlotGauge.NUMBER, 7)
    assert slot.next() == core.RETIRE
    arena.reset_slot(0, SlotGauge.OUTCOMES)
    assert (arena.slot_state(0), arena.slot_gauge(0, SlotGauge.NUMBER)) == (core.SLOT_FREE, 0)
    assert arena.slot_gauge(0, COUNTER) == 1
    channel.take()
    publish(channel)
    assert slot_of(arena, 0, 1).next() == core.REQUEST


@pytest.mark.parametrize("index", [4, 2**31, 2**32 - 1])
@pytest.mark.parametrize(
    "touch",
    [
        lambda arena, index: arena.word(index),
        lambda arena, index: arena.step(index, 0, 0),
        lambda arena, index: arena.set_failure(index, 0),
        lambda arena, index: arena.request_bytes(index, 1),
        lambda arena, index: arena.ring_client(index),
        lambda arena, index: arena.reset_channel(index),
        lambda arena, index: core.Channel(arena, index, 1),
        lambda arena, index: arena.slot_gauge(index, 0),
        lambda arena, index: arena.set_slot_gauge(index, 0, 0),
        lambda arena, index: arena.slot_state(index),
        lambda arena, index: arena.histograms(index),
        lambda arena, index: arena.reset_slot(index, 1),
        lambda arena, index: arena.retire(index),
        lambda arena, index: core.Slot(arena, index, 0),
    ],
)
def test_nothing_is_beyond_the_last_channel_or_slot(touch: Callable[[Any, int], Any], index: int) -> None:
    with pytest.raises(IndexError):
        touch(new_arena(channels=4, slots=2), index)


def test_a_look_into_a_ring_ends_with_it() -> None:
    arena = new_arena()
    publish(channel_of(arena), payload=b"look")
    sent = encode(request(payload=b"look"))
    assert arena.request_bytes(0, len(sent)) == sent
    assert len(arena.request_bytes(0, 2**32 - 1)) == RING
    assert arena.request_bytes(0, 0) == b""
