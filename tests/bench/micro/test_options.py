"""Options, payloads and the command line of the micro benchmark."""

import random
from typing import cast

import pytest

from bench.core.command import USAGE, names_in
from bench.core.processes import Family
from bench.micro.options import CONDITIONS, PRESETS, Options, parse_sizes
from bench.micro.payloads import LARGE_BYTES, SMALLEST, parse_size, payload_of, size_name
from bench.micro.peers.table import PEERS, REFERENCES, like
from bench.micro.session import Running, turns
from bench.micro.wire import pack, unpack
from bench.scripts.run_micro_bench import main, options_of


@pytest.mark.parametrize("size", [SMALLEST, 64, 200, 255, 256, 300, 4096, 65_000, 65_535, 65_560, 70_000])
def test_a_small_payload_takes_its_size_as_msgpack(size: int) -> None:
    payload = payload_of(size)
    assert isinstance(payload, dict)
    # Where the length of the data needs more bytes for itself, no dict has exactly the size.
    assert size - 2 <= len(pack(payload)) <= size
    assert unpack(pack(payload)) == payload


def test_a_large_payload_is_bytes_and_always_the_same() -> None:
    payload = payload_of(LARGE_BYTES)
    assert isinstance(payload, bytes)
    assert len(payload) == LARGE_BYTES
    assert payload == payload_of(LARGE_BYTES)
    assert len(set(payload)) > 200  # no zeros that could travel for nothing


def test_a_payload_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        payload_of(SMALLEST - 1)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64", 64), ("4K", 4096), (" 4KiB ", 4096), ("1m", 2**20), ("16MiB", 2**24), ("100b", 100)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "4x", "-1", "1.5M", "MiB", "1 K B", "\u0663"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


def test_sizes_have_names() -> None:
    named = {64: "64 B", 1024: "1 KiB", 1500: "1500 B", 2**20: "1 MiB", 2**24: "16 MiB"}
    assert {size: size_name(size) for size in named} == named


def test_lists_are_read_once_each() -> None:
    assert names_in("a, b,,a") == ("a", "b")
    assert parse_sizes("64,4K,64") == (64, 4096)


def given_options(*words: str) -> Options:
    return options_of(words)


def test_the_defaults_are_the_presets() -> None:
    plain, quick = given_options(), given_options("--quick")
    assert plain.payload_sizes == PRESETS["default"].sizes
    assert quick.payload_sizes == PRESETS["quick"].sizes
    assert quick.round_count < plain.round_count
    assert (plain.chosen_peers, plain.conditions) == (tuple(PEERS), tuple(CONDITIONS))


def test_options_are_put_over_the_preset() -> None:
    words = (
        "--quick --peers pipe,zmq --sizes 1M,64 --conditions one --rounds 3 --calls 7 --window 0.05 --idle 0"
    )
    made = given_options(*words.split(), "--no-throughput", "--executors", "4")
    assert (made.chosen_peers, made.payload_sizes) == (("pipe", "zmq"), (64, 2**20))
    assert made.sizes_under("one") == (64,)
    assert made.sizes_under("idle") == (64, 2**20)
    assert made.round_count == 3
    assert made.budget(64).calls == 7
    assert made.budget(64).warmup <= 7
    assert (made.window, made.idle_seconds, made.throughput, made.executors) == (0.05, 0, False, 4)


def test_bytes_travel_as_they_are_where_they_are_many() -> None:
    made = given_options()
    raw = [size for size in made.payload_sizes if True in made.raw_too(size)]
    assert raw == [2**18, 2**20, 4 * 2**20, 16 * 2**20]
    assert all(False in made.raw_too(size) for size in made.payload_sizes)


@pytest.mark.parametrize("words", [(), ("--quick",)])
def test_batches_on_busy_cores_are_longer(words: tuple[str, ...]) -> None:
    made = given_options(*words)
    assert made.budget(64, "one") == made.budget(64, "all")
    assert made.budget(64, "all").limit_s >= 2 * made.budget(64).limit_s
    assert made.budget(64, "spaced") == made.budget(64)


def test_only_the_spaced_condition_has_pauses() -> None:
    made = given_options("--pause-us", "500")
    assert {name: made.pause_s(name) for name in CONDITIONS if made.pause_s(name)} == {"spaced": 0.0005}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        *(
            (f"{option} {value}", f"{option} is {value}, allowed are")
            for option, value in {
                "--rounds": 0, "--calls": 0, "--executors": 0, "--latency-executors": -1, "--pause-us": 0,
                "--window": 0, "--idle": -1,
            }.items()
        ),
        ("--peers carrier-pigeon", "--peers names carrier-pigeon; known are c-park"),
        ("--peers ,", "--peers names nothing"),
        ("--conditions raining", "--conditions names raining; known are idle"),
        ("--sizes 1", "--sizes is 1, allowed are 32 bytes to 60 MiB"),
        ("--sizes 64M", "--sizes is"),
        ("--sizes lots", "'lots' is no size"),
        ("--sizes ,", "--sizes names nothing"),
    ],
)  # fmt: skip
def test_bad_options_are_told_with_limits(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == USAGE
    assert told in capsys.readouterr().err


def test_turns_are_drawn_and_judged_ones_are_neighbours() -> None:
    chance = random.Random(3)
    peers = [Running(name, [], cast(Family, None), "") for name in PEERS]
    judged = {name for name, info in PEERS.items() if info.judged}
    orders = [[peer.name for peer in turns(peers, chance)] for _ in range(200)]
    for order in orders:
        assert sorted(order) == sorted(PEERS)
        places = sorted(order.index(name) for name in judged)
        assert places[-1] - places[0] == len(judged) - 1
    assert {order[0] for order in orders} & judged
    assert {order[0] for order in orders} - judged
    assert len({tuple(name for name in order if name in judged) for order in orders}) > 100
    assert [peer.name for peer in turns(peers[:1], chance)] == ["c-park"]
    assert turns([], chance) == []


def test_what_takes_part_is_in_the_estimate() -> None:
    made, quick = given_options(), given_options("--quick")
    assert 300 < made.expected_s() < 720
    assert made.round_count >= 9
    assert quick.expected_s() < 150
    assert given_options("--peers", "pipe,shm").expected_s() < made.expected_s() / 2
    alone = given_options("--peers", "pipe", "--no-throughput", "--conditions", "one", "--idle", "0")
    assert alone.expected_s() == pytest.approx(0.5 + 9 * 0.84)


def test_judged_peers_take_part_in_each_round_and_others_in_every_third() -> None:
    made = given_options()
    rounds = [{info.name for info in made.in_round(number)} for number in range(made.round_count)]
    assert [len(names) == len(PEERS) for names in rounds] == [True, False, False] * 3
    assert all({"shm", "shm-same", "pipe", "pipe-own", "acall", "executor"} <= names for names in rounds)
    assert "zmq" not in rounds[1]
    named = given_options("--peers", "zmq,shm")
    assert [info.name for info in named.in_round(1)] == ["zmq", "shm"]


def test_what_takes_part_under_a_condition() -> None:
    made = given_options()
    idle, one, quota = (
        {info.name for info in made.under(name, 64, False, 0)} for name in ("idle", "one", "quota")
    )
    assert idle - one == {"view", "view-pipe", "view-offload"}
    assert one - idle == {"shm-io", "shm-same-io", "shm-park", "shm-same-park"}
    assert made.only_watched_peers == ["shm-4", "shm-8"]
    assert set(made.called_peers) == set(PEERS) - {"shm-4", "shm-8"}
    assert {name for info in PEERS.values() for name in info.when or ()} <= set(CONDITIONS)
    assert made.quota_peers == [name for name in PEERS if name in quota]
    assert {"shm", "pipe"} < quota < one
    assert "zmq" in one - quota
    assert given_options("--conditions", "one").quota_peers == []
    large = {info.name for info in made.under("idle", 2**20, True, 0)}
    assert {"shm", "pipe"} < large
    assert not large & {"shm-same", "executor"}


def test_layouts_are_of_threads_or_of_tasks() -> None:
    layouts = {layout.name: names for layout, names in given_options().layouts(0)}
    assert list(layouts) == [
        "1 thread", "4 threads", "16 threads", "4 processes", "1 task", "16 tasks", "64 tasks", "256 tasks",
    ]  # fmt: skip
    assert set(layouts["64 tasks"]) == {"acall", "acall-uvloop"}
    assert {"shm", "shm-same", "pipe", "pipe-own", "executor"} < set(layouts["16 threads"])


def test_like_is_held_against_like() -> None:
    assert [like(reference, "stdio") for reference in REFERENCES] == ["ring", "shm", "pipe-own"]
    assert [like(reference, "socket") for reference in REFERENCES] == ["ring", "shm-same", "pipe"]


def test_help_is_enough_to_get_started(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        given_options("--help")
    text = capsys.readouterr().out
    for word in (*PEERS, *CONDITIONS, "--quick", "bench/results", "Exit codes"):
        assert word in text, word
