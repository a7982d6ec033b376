"""What servers run under, and what client and worker say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.demo import settings


@pytest.mark.parametrize(
    ("builds", "compiled", "expected"),
    [(Path("b"), True, "require"), (Path("b"), False, "off"), (None, True, "off")],
)
def test_handlers_are_compiled_where_asked_for_and_possible(
    builds: Path | None, compiled: bool, expected: str
) -> None:
    made = settings.server_settings(Path("d"), builds=builds, compiled=compiled)
    assert made["MOLT_COMPILED"] == expected
    assert (
        made["MOLT_WORKER_NAME"]
        != settings.server_settings(Path("d"), builds=None, compiled=False)["MOLT_WORKER_NAME"]
    )


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
