"""Operator, account and user of NATS' decentralised security, and the credentials file of the user.

As https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt describes them.
"""

import base64
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import nkeys

_PREFIXES = {
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "user": nkeys.PREFIX_BYTE_USER,
}


def new_pair(kind: str) -> nkeys.KeyPair:
    seed = nkeys.encode_seed(
        hashlib.sha256(f"{kind}{time.monotonic_ns()}".encode()).digest(), _PREFIXES[kind]
    )
    return nkeys.from_seed(seed)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _jwt(issuer: nkeys.KeyPair, subject: str, name: str, what: dict[str, Any]) -> str:
    claims: dict[str, Any] = {
        "iat": int(time.time()),
        "iss": issuer.public_key.decode(),
        "name": name,
        "sub": subject,
        "nats": what,
        "jti": "",
    }
    claims["jti"] = (
        base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).rstrip(b"=").decode()
    )
    parts = [_text(json.dumps(each).encode()) for each in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)]
    signed = ".".join(parts)
    return f"{signed}.{_text(issuer.sign(signed.encode()))}"


def write(folder: Path) -> tuple[Path, Path]:
    """Write a server's configuration that knows one account, and a credentials file of a user of it. Returns both."""
    operator, account, user = new_pair("operator"), new_pair("account"), new_pair("user")
    limits = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1}
    account_id, user_id = account.public_key.decode(), user.public_key.decode()
    operator_jwt = _jwt(
        operator, operator.public_key.decode(), "operator", {"type": "operator", "version": 2}
    )
    account_jwt = _jwt(
        operator,
        account_id,
        "account",
        {"type": "account", "version": 2, "limits": {**limits, "wildcards": True}},
    )
    user_jwt = _jwt(
        account, user_id, "user", {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}
    )
    config, creds = folder / "operator.conf", folder / "user.creds"
    config.write_text(
        f"operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {account_id}: {account_jwt} }}\n"
    )
    seed = user.seed.decode()
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    return config, creds
