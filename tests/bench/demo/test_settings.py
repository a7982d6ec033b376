"""What servers run under, and what client and worker say of it."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bench.demo import settings


def test_handlers_are_compiled_where_asked_for_and_possible() -> None:
    made = {
        (builds, compiled): settings.server_settings(Path("d"), builds=builds, compiled=compiled)
        for builds, compiled in ((Path("b"), True), (Path("b"), False), (None, True))
    }
    assert [each["MOLT_COMPILED"] for each in made.values()] == ["require", "off", "off"]
    assert len({each["MOLT_WORKER_NAME"] for each in made.values()}) == 3


def test_the_workers_account_is_taken_as_far_as_it_goes() -> None:
    answer = {"worker": {"version": "1", "transport": "shm", "pid": 7, "executors": {"size": 2, "pids": [8]}}}
    told = settings.worker_facts(json.dumps(answer).encode())
    assert told == {"version": "1", "transport": "shm", "executors": 2}


@given(
    st.binary(max_size=50)
    | st.sampled_from([b'{"worker": 1}', b'{"worker": {"executors": 3}}', b"[]", b"{}"])
)
def test_any_other_account_is_none(answer: bytes) -> None:
    assert settings.worker_facts(answer) == {}


def test_the_clients_own_configuration_is_asked() -> None:
    config = settings.effective_client_config({"MOLT_WORKER_EXECUTORS": "3"})
    assert config is not None
    assert config["executors"] == 3
    assert settings.effective_client_config({"MOLT_WORKER_EXECUTORS": "many"}) is None
