"""molt_accel.ipc.stream: frames over pipes and sockets, blocking or not, full or closed."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from molt_accel.ipc.frame import Fault, FrameError, Item, encode
from molt_accel.ipc.messages import Request
from molt_accel.ipc.stream import FrameStream
from tests.support.errors import raised
from tests.support.processes import in_thread

LIMIT = 8 * 1024 * 1024
SIZES = [0, 1, 16 * 1024, 16 * 1024 + 1, 300_000, 3_000_000]


@pytest.fixture(params=["pipe", "socketpair"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A descriptor to read from and one to write to; those that a test leaves open are closed."""
    if request.param == "pipe":
        read_fd, write_fd = os.pipe()
    else:
        reader, writer = socket.socketpair()
        read_fd, write_fd = reader.detach(), writer.detach()
    yield read_fd, write_fd
    for fd in (read_fd, write_fd):
        with contextlib.suppress(OSError):
            os.close(fd)


def frames(*sizes: int) -> list[Request]:
    return [Request(number, "e", os.urandom(size)) for number, size in enumerate(sizes, 1)]


def read_all(stream: FrameStream) -> list[Item | FrameError]:
    items = []
    while stream.fill() is not None:
        items += stream.frames()
    return items


def test_frames_of_any_size_arrive_whole_and_in_order_over_blocking_ends(ends: tuple[int, int]) -> None:
    read_fd, write_fd = ends
    sent = frames(*SIZES, *reversed(SIZES))
    writer = FrameStream(-1, write_fd, LIMIT)

    def send() -> None:
        for frame in sent:
            writer.send(frame)
            assert writer.pending_bytes == 0
        os.close(write_fd)

    thread = in_thread(send)
    assert read_all(FrameStream(read_fd, -1, LIMIT)) == sent
    thread.join()


def test_a_full_descriptor_queues_whole_frames_and_flush_goes_on_with_them(ends: tuple[int, int]) -> None:
    read_fd, write_fd = ends
    for fd in ends:
        os.set_blocking(fd, False)
    writer, reader = FrameStream(-1, write_fd, LIMIT), FrameStream(read_fd, -1, LIMIT)
    sent = frames(*SIZES, *[100] * 50, *SIZES)
    total = sum(len(encode(frame, LIMIT)) for frame in sent)
    for frame in sent:
        writer.send(frame)
    held = total - writer.pending_bytes
    assert 0 < held < total
    assert not writer.flush()
    assert total - writer.pending_bytes == held

    received: list[Item | FrameError] = []
    while len(received) < len(sent):
        assert reader.fill()
        received += reader.frames()
        writer.flush()
    assert received == sent
    assert writer.pending_bytes == 0
    assert writer.flush()
    assert reader.fill() == 0
    assert not reader._parser.mid_frame


def test_a_frame_torn_into_single_bytes_arrives(ends: tuple[int, int]) -> None:
    read_fd, write_fd = ends
    (frame,) = frames(5)
    data = encode(frame)
    reader = FrameStream(read_fd, -1)
    for at in range(len(data)):
        assert reader.frames() == []
        os.write(write_fd, data[at : at + 1])
        assert reader.fill() == 1
        assert reader._parser.mid_frame
    assert reader.frames() == [frame]
    assert not reader._parser.mid_frame


def test_the_end_in_the_middle_of_a_frame_is_told_apart_from_a_clean_end(ends: tuple[int, int]) -> None:
    read_fd, write_fd = ends
    first, second = frames(5, 5)
    reader = FrameStream(read_fd, -1)
    os.write(write_fd, encode(first) + encode(second)[:-1])
    os.close(write_fd)
    assert read_all(reader) == [first]
    assert reader._parser.mid_frame
    assert reader.fill() is None


def test_a_clean_end_is_none_and_leaves_nothing_half_read(ends: tuple[int, int]) -> None:
    read_fd, write_fd = ends
    (frame,) = frames(5)
    FrameStream(-1, write_fd).send(frame)
    os.close(write_fd)
    reader = FrameStream(read_fd, -1)
    assert read_all(reader) == [frame]
    assert not reader._parser.mid_frame
    assert not reader.was_reset


def test_nothing_to_read_is_0_on_a_non_blocking_end(ends: tuple[int, int]) -> None:
    read_fd, _ = ends
    os.set_blocking(read_fd, False)
    reader = FrameStream(read_fd, -1)
    assert reader.fill() == 0
    assert reader.frames() == []


def test_wait_readable_sees_data_the_end_and_the_lack_of_both(ends: tuple[int, int]) -> None:
    read_fd, write_fd = ends
    reader = FrameStream(read_fd, -1)
    assert not reader.wait_readable(0)
    os.write(write_fd, b"x")
    assert reader.wait_readable(60)
    assert reader.fill() == 1
    assert not reader.wait_readable(0)
    os.close(write_fd)
    assert reader.wait_readable(60)
    assert reader.fill() is None


def test_writing_to_nobody_is_a_broken_pipe(ends: tuple[int, int]) -> None:
    read_fd, write_fd = ends
    os.close(read_fd)
    writer = FrameStream(-1, write_fd, LIMIT)
    for frame in frames(10, 100_000):
        with pytest.raises(BrokenPipeError):
            writer.send(frame)


def test_a_reset_connection_is_an_end_to_the_reader_and_a_broken_pipe_to_the_writer() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        stream = FrameStream(ours.fileno(), ours.fileno())
        stream.send(frames(10)[0])
        theirs.close()  # with unread data: a reset
        assert stream.fill() is None
        assert stream.was_reset
        with pytest.raises(BrokenPipeError):
            stream.send(frames(10)[0])


def test_discard_drops_what_waits_to_be_written(ends: tuple[int, int]) -> None:
    read_fd, write_fd = ends
    os.set_blocking(write_fd, False)
    writer = FrameStream(-1, write_fd, LIMIT)
    writer.send(frames(3_000_000)[0])
    assert writer.pending_bytes > 0
    writer.discard()
    assert writer.pending_bytes == 0
    assert writer.flush()
    assert os.read(read_fd, 4) == encode(frames(3_000_000)[0], LIMIT)[:4]


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (Request(1, "e", b"x" * 5000), Fault.TOO_LARGE),
        (Request(1, ""), Fault.ENTRY),
        (Request(2**64, "e"), Fault.RANGE),
    ],
)
def test_an_unsendable_frame_changes_nothing(ends: tuple[int, int], frame: Request, fault: Fault) -> None:
    read_fd, write_fd = ends
    writer, reader = FrameStream(-1, write_fd, 4096), FrameStream(read_fd, -1, 4096)
    before, after = frames(10, 20)
    writer.send(before)
    assert raised(FrameError, writer.send, frame).fault is fault
    assert writer.pending_bytes == 0
    writer.send(after)
    os.close(write_fd)
    assert read_all(reader) == [before, after]


def test_a_malformed_frame_stands_as_its_error_between_its_neighbours(ends: tuple[int, int]) -> None:
    read_fd, write_fd = ends
    before, after = frames(10, 20)
    os.write(write_fd, encode(before) + bytes(4) + encode(after))
    os.close(write_fd)
    first, error, last = read_all(FrameStream(read_fd, -1))
    assert (first, last) == (before, after)
    assert isinstance(error, FrameError)
    assert error.fault is Fault.EMPTY


def test_one_socket_serves_both_directions() -> None:
    left, right = socket.socketpair()
    with left, right:
        one, other = (FrameStream(end.fileno(), end.fileno()) for end in (left, right))
        ping, pong = frames(10, 20)
        one.send(ping)
        other.send(pong)
        assert one.fill()
        assert other.fill()
        assert (one.frames(), other.frames()) == ([pong], [ping])


def test_a_memoryview_is_sent_like_bytes(ends: tuple[int, int]) -> None:
    read_fd, write_fd = ends
    writer, reader = FrameStream(-1, write_fd, LIMIT), FrameStream(read_fd, -1, LIMIT)
    for size in (10, 20_000):
        data = os.urandom(size)
        writer.send(Request(1, "e", memoryview(data)))
        assert reader.fill()
        assert reader.frames() == [Request(1, "e", data)]


def test_what_can_t_be_read_any_more_has_ended() -> None:
    stream = FrameStream(-1, -1)
    assert stream.fill() is None
    assert not stream.was_reset
