"""Whoever may publish may call entrypoints, and harms nobody: what is sent past any client library."""

import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from molt_accel import Client
from molt_accel.cluster import wire
from molt_accel.ipc import frame
from molt_accel.ipc.frame import PREFIX_BYTES
from molt_accel.ipc.messages import Request
from tests.integration.cluster.conftest import Cluster
from tests.support.nats_server import PATIENCE_S

Remote = Callable[..., Client]
INBOX = b"_INBOX.hostile"
FIRST = wire.FIRST_PIECE + wire._PIECE.pack(1000, 0) + b"x"


class Publisher:
    """Writes NATS' protocol, and nothing stops it."""

    def __init__(self, cluster: Cluster) -> None:
        self.socket = socket.create_connection(("127.0.0.1", cluster.nats.port))
        self._lines = self.socket.makefile("rb")
        self._lines.readline()
        self._send(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n')
        self.flush()

    def _send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def flush(self) -> None:
        """Wait until the server has had all."""
        self._send(b"PING\r\n")
        while not self._lines.readline().startswith(b"PONG"):
            pass

    def publish(self, subject: bytes, reply: bytes, data: bytes) -> None:
        self._send(b"PUB %s %s %d\r\n%s\r\n" % (subject, reply, len(data), data))

    def publish_with(self, header: bytes, subject: bytes, reply: bytes, data: bytes) -> None:
        whole = header + data
        self._send(b"HPUB %s %s %d %d\r\n%s\r\n" % (subject, reply, len(header), len(whole), whole))

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


@pytest.fixture
def hostile(whole: Cluster) -> Iterator[Publisher]:
    made = Publisher(whole)
    yield made
    made.close()


def request(**fields: int) -> bytes:
    return wire.REQUEST + frame.encode(Request(7, "echo", b"\x01", **fields), 1 << 20)[PREFIX_BYTES:]


@pytest.mark.parametrize(
    "publish",
    [
        pytest.param(lambda it: it.publish(b"molt.echo", b"\xff\xfe", b"Q"), id="a reply that is no UTF-8"),
        pytest.param(lambda it: it.publish(b"$SRV.PING", b"\xff\xfe", b""), id="the same to the service API"),
        pytest.param(lambda it: it.publish(b"molt.echo", b"a\x0bb", b"Q"), id="a vertical tab"),
        pytest.param(lambda it: it.publish_with(b"N", b"molt.echo", INBOX, b"Q"), id="a header cut short"),
        pytest.param(
            lambda it: it.publish_with(b"NATS/1.0 \xff\r\n\r\n", b"molt.__cancel__", b"", b"x"),
            id="a status that is no UTF-8",
        ),
        pytest.param(
            lambda it: it.publish_with(b"NATS/1.0\r\n\r\n", b"molt.echo", b"a\x0cb", b"Q"),
            id="a form feed, with headers",
        ),
    ],
)
def test_no_message_keeps_a_bridge_from_reading_on(
    whole: Cluster, remote: Remote, hostile: Publisher, publish: Callable[[Publisher], None]
) -> None:
    client = remote()
    for number in range(5):
        publish(hostile)
        hostile.flush()
        assert client.call("echo", number) == number
    log = whole.started[-1].log.read_text()
    assert "lost" not in log
    assert "Traceback" not in log


def test_a_deadline_past_all_clocks_is_refused_and_not_logged(
    whole: Cluster, remote: Remote, hostile: Publisher
) -> None:
    for number in range(20):
        hostile.publish(b"molt.echo", b"%s.%d" % (INBOX, number), request(deadline_ns=2**64 - 1))
    hostile.flush()
    assert remote().call("echo", 1) == 1
    assert "Traceback" not in whole.started[-1].log.read_text()


def test_frames_that_are_begun_only_keep_nobody_from_small_ones(
    whole: Cluster, remote: Remote, hostile: Publisher
) -> None:
    client = remote()
    assert client.call("echo", 1) == 1
    for number in range(64):
        hostile.publish(b"molt.echo", b"%s.%d" % (INBOX, number), FIRST)
    for number in range(20):
        hostile.publish(b"molt.echo", b"%s.more" % INBOX, FIRST)
        hostile.flush()
        assert client.call("echo", number) == number


@pytest.mark.slow
def test_pieces_that_never_end_keep_no_bridge_from_leaving(whole: Cluster, hostile: Publisher) -> None:
    hostile._send(b"SUB %s.1 1\r\n" % INBOX)
    hostile.publish(b"molt.echo", INBOX + b".1", FIRST)
    while not (line := hostile._lines.readline()).startswith(b"MSG"):
        pass
    pieces = line.split()[3]
    bridge, until_s = whole.started[-1], time.monotonic() + PATIENCE_S
    bridge.process.send_signal(signal.SIGTERM)
    for number in range(1, 1000):
        if bridge.process.poll() is not None or time.monotonic() > until_s:
            break
        piece = wire.NEXT_PIECE + wire._PIECE.pack(1000, number) + b"x"
        hostile.publish(pieces, INBOX + b".1", piece)
        time.sleep(0.2)
    assert bridge.process.poll() == 0
