"""Servers that demand something of clients and bridges, and what restricted subjects keep out."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from molt_accel import Client, MoltWorkerUnavailable
from tests.integration.cluster.conftest import Cluster
from tests.support import nats_jwt
from tests.support.errors import raised
from tests.support.nats_server import NatsServer

Demand = Callable[[Path], tuple[str, list[str], dict[str, str]]]


def user_and_password(folder: Path) -> tuple[str, list[str], dict[str, str]]:
    return "nats", ["--user", "shop", "--pass", "s3cret"], {"nats_user": "shop", "nats_password": "s3cret"}


def nkey(folder: Path) -> tuple[str, list[str], dict[str, str]]:
    pair = nats_jwt.new_pair("user")
    seed, config = folder / "seed.nk", folder / "nkey.conf"
    seed.write_bytes(pair.seed)
    config.write_text(f"authorization {{ users: [ {{ nkey: {pair.public_key.decode()} }} ] }}\n")
    return "nats", ["-c", str(config)], {"nats_nkey": str(seed)}


def credentials(folder: Path) -> tuple[str, list[str], dict[str, str]]:
    config, creds = nats_jwt.write(folder)
    return "nats", ["-c", str(config)], {"nats_creds": str(creds)}


def mutual_tls(folder: Path) -> tuple[str, list[str], dict[str, str]]:
    ca = folder / "ca.pem"
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"),
        *("-keyout", str(folder / "ca.key"), "-out", str(ca)),
    )
    for name in ("server", "client"):
        key, request, cert, more = (folder / f"{name}.{each}" for each in ("key", "csr", "pem", "ext"))
        more.write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            f"/CN={name}",
            "-keyout",
            str(key),
            "-out",
            str(request),
        )
        _openssl(
            *(
                "x509",
                "-req",
                "-in",
                str(request),
                "-CA",
                str(ca),
                "-CAkey",
                str(folder / "ca.key"),
                "-days",
                "2",
            ),
            *("-CAcreateserial", "-extfile", str(more), "-out", str(cert)),
        )
    server = ["--tlsverify", "--tlscert", str(folder / "server.pem"), "--tlskey", str(folder / "server.key")]
    return (
        "tls",
        [*server, "--tlscacert", str(ca)],
        {"nats_ca": str(ca), "nats_cert": str(folder / "client.pem"), "nats_key": str(folder / "client.key")},
    )


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("demand", [user_and_password, nkey, credentials, mutual_tls])
def test_a_server_that_demands_something_gets_it(cluster: Cluster, tmp_path: Path, demand: Demand) -> None:
    scheme, flags, settings = demand(tmp_path)
    cluster.nats = NatsServer(tmp_path, flags, scheme=scheme)
    cluster.nats.start()
    with Client(transport="nats", nats_url=cluster.url) as stranger:
        assert not raised(MoltWorkerUnavailable, stranger.call, "echo").may_have_run
    cluster.pool()
    cluster.bridge(**{f"MOLT_{name.upper()}": value for name, value in settings.items()})
    with Client(transport="nats", nats_url=cluster.url, **settings) as client:
        assert client.call("echo", 1) == 1


#: As in docs/how-to/use-several-hosts.md.
ACCOUNTS = """
accounts {
  SHOP {
    users: [
      { user: web, password: w, permissions: { publish: ["shop.>"], subscribe: ["_INBOX.>"] } }
      { user: bridge, password: b, permissions: {
          publish: ["_INBOX.>", "$SRV.STATS"], subscribe: ["shop.>", "_INBOX.>", "$SRV.>"], allow_responses: true } }
    ]
  }
  OTHERS { users: [ { user: other, password: o } ] }
}
"""


@pytest.fixture
def shop(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Clients of a cluster in which each user may do only what it has to."""
    config = tmp_path / "accounts.conf"
    config.write_text(ACCOUNTS)
    cluster.nats = NatsServer(tmp_path, ["-c", str(config)])
    cluster.nats.start()
    cluster.pool()
    cluster.bridge(MOLT_NATS_USER="bridge", MOLT_NATS_PASSWORD="b", MOLT_NATS_SUBJECT="shop")
    made: list[Client] = []

    def client(user: str, **settings: Any) -> Client:
        who = {"nats_url": cluster.url, "nats_user": user, "nats_password": user[0], "nats_subject": "shop"}
        made.append(Client(**{"transport": "nats", **who, **settings}))
        return made[-1]

    yield client
    for each in made:
        each.close()


def test_users_that_may_do_only_what_they_have_to_can(shop: Callable[..., Client]) -> None:
    client = shop("web")
    assert client.call("echo", 1) == 1
    payload = bytes(3_000_000)
    assert client.call("echo", payload, timeout_ms=60_000) == payload


def test_another_account_reaches_nobody(shop: Callable[..., Client]) -> None:
    error = raised(MoltWorkerUnavailable, shop("other").call, "echo", 1)
    assert "nobody serves" in error.detail
