"""molt_accel.testing.stage: clients are staged while there are layers, and as they were before afterwards."""

import threading
import weakref
from typing import Any

import pytest

from molt_accel import Client, MoltClientClosed, testing
from molt_accel import client as clients
from molt_accel.call import make_call
from molt_accel.testing import stage
from molt_accel.transports.opening import open_transport
from tests.support import EXPORTS
from tests.support.processes import wait_until
from tests.support.scripted_transport import ScriptedTransport, answer, silence


def test_nothing_is_left_behind() -> None:
    with Client(transport="stdio", exports=EXPORTS) as before:
        own = before._transport
        with testing.inline_pool(), Client(transport="stdio", exports=EXPORTS) as meanwhile:
            with testing.recorded_calls():
                assert isinstance(before._transport, stage.StagedTransport)
                assert isinstance(meanwhile._transport, stage.StagedTransport)
            assert before.call("echo", 1) == meanwhile.call("echo", 1) == 1
        assert before._transport is own
        assert not isinstance(meanwhile._transport, stage.StagedTransport)
        assert (vars(clients)["make_call"], vars(clients)["open_transport"]) == (make_call, open_transport)


@pytest.mark.parametrize("when", ["before", "meanwhile", "between"])
def test_a_closed_client_stays_closed(when: str) -> None:
    client = Client(transport="inline", exports=EXPORTS)
    if when == "before":
        client.close()
    with testing.inline_pool():
        if when == "meanwhile":
            client.close()
        if when != "between":
            with pytest.raises(MoltClientClosed):
                client.call("echo", 1)
            with pytest.raises(MoltClientClosed):
                client.start()
    client.close()
    for _ in range(2):
        with pytest.raises(MoltClientClosed):
            client.call("echo", 1)
        with testing.inline_pool(), pytest.raises(MoltClientClosed):
            client.call("echo", 1)


def staged(transport: ScriptedTransport) -> Client:
    client = Client(transport="inline", exports=EXPORTS)
    transport.close = lambda: None  # type: ignore[attr-defined]
    client._finalizer.detach()
    client._transport = transport  # type: ignore[assignment]
    client._finalizer = weakref.finalize(client, transport.close)  # type: ignore[attr-defined]
    return client


def test_requests_go_on_to_the_client_s_own_transport() -> None:
    transport = ScriptedTransport(answer("there"), ready=False)
    client = staged(transport)
    with testing.recorded_calls():
        assert client._transport.ready is False
        assert client.call("echo", 1) == "there"
        assert client._transport.ready is True
    assert (transport.starts, len(transport.submitted)) == (1, 1)


def test_a_call_that_began_before_is_ended_at_its_owner() -> None:
    transport = ScriptedTransport(silence)
    client = staged(transport)
    found: list[Any] = []
    gone = threading.Event()

    def call() -> None:
        try:
            client.call("echo", 1, cancel_check=gone.is_set)
        except Exception as exc:
            found.append(exc)

    for layered in (False, True):
        gone.clear()
        if layered:
            with testing.recorded_calls():
                thread = threading.Thread(target=call)
                thread.start()
                wait_until(lambda: transport.calls)
        else:
            thread = threading.Thread(target=call)
            thread.start()
            wait_until(lambda: transport.calls)
        with testing.recorded_calls():
            gone.set()
            thread.join()
        transport.calls.clear()
    assert [str(error) for error in found] == ["the client went away"] * 2
    assert len(transport.abandoned) == 2
