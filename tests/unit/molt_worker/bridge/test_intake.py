"""molt_worker.bridge.intake: frames in pieces, of many at once, and what nobody ends."""

from molt_accel.cluster.wire import FIRST_PIECE, pieces_of
from molt_accel.errors import MoltBusy
from molt_accel.ipc.frame import FrameError
from molt_worker.bridge.intake import MOST, PATIENCE_S, Intake
from tests.support.errors import raised


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def cut(body: bytes) -> list[bytes]:
    return list(pieces_of(body, FIRST_PIECE, 19))


def test_frames_of_several_come_together_each_by_itself() -> None:
    intake = Intake(1000)
    one, other = cut(b"a" * 20), cut(b"b" * 20)
    assert intake.begin("one", "echo", "inbox.1", one[0]) is None
    assert intake.begin("other", "echo", "inbox.1", other[0]) is None
    assert intake.add("one", one[1]) == b"a" * 20
    assert intake.add("other", other[1]) == b"b" * 20
    assert intake.add("one", one[1]) is None  # once more


def test_what_is_under_way_is_what_may_still_be_completed() -> None:
    clock = Clock()
    intake = Intake(1000, clock)
    first, second = cut(b"a" * 20)
    for key in ("one", "other"):
        intake.begin(key, "echo", "inbox.1", first)
    assert intake.under_way == 2
    assert intake.replies == ["inbox.1"] * 2
    intake.add("one", second)
    assert intake.under_way == 1
    clock.now_s += PATIENCE_S + 0.1
    assert intake.under_way == 0


def test_a_frame_of_one_piece_is_complete_at_once() -> None:
    assert Intake(1000).begin("one", "echo", "inbox.1", cut(b"abc")[0]) == b"abc"


def test_pieces_of_what_was_not_begun_are_nothing() -> None:
    assert Intake(1000).add("stranger", cut(b"abc")[0]) is None


def test_what_is_wrong_is_given_up() -> None:
    intake = Intake(1000)
    first, second = cut(b"a" * 20)
    intake.begin("one", "echo", "inbox.1", first)
    raised(FrameError, intake.add, "one", first)
    assert intake.add("one", second) is None


def test_there_are_never_too_many_and_late_ones_make_room() -> None:
    clock = Clock()
    intake = Intake(1000, clock)
    first, second = cut(b"a" * 20)
    for number in range(MOST):
        intake.begin(str(number), "echo", "inbox.1", first)
    raised(MoltBusy, intake.begin, "more", "echo", "inbox.1", first)
    clock.now_s += PATIENCE_S + 1
    assert intake.owner_of("0") == ("echo", "inbox.1")
    assert intake.begin("more", "echo", "inbox.1", first) is None
    assert intake.owner_of("0") is None  # nothing is kept of it
    assert intake.add("0", second) is None
    assert intake.add("more", second) == b"a" * 20


def test_all_together_have_a_bound() -> None:
    intake = Intake(100)
    frames = [list(pieces_of(bytes(100), FIRST_PIECE, 99)) for _ in range(6)]
    for number, pieces in enumerate(frames):
        if number < 4:
            assert intake.begin(str(number), "echo", "inbox.1", pieces[0]) is None
        else:
            raised(MoltBusy, intake.begin, str(number), "echo", "inbox.1", pieces[0])
    ended = [intake.add(str(number), pieces[1]) for number, pieces in enumerate(frames)]
    assert ended == [bytes(100)] * 4 + [None] * 2
    assert intake.begin("another", "echo", "inbox.1", cut(b"abc")[0]) == b"abc"
