"""Asks an installed package one thing on each transport that it must have here; run with ``python -I``.

What is built elsewhere is tried with this before it is published: the wheel alone, no checkout, no test tools.
"""

import os
import sys
import tempfile

from molt_accel import Client


def main() -> None:
    """Raise what goes wrong; say where the package is if nothing does."""
    transports = ["shm", "stdio"] if sys.platform == "linux" else ["stdio"]
    with tempfile.TemporaryDirectory() as directory:
        os.environ["MOLT_WORKER_CMD"] = f"{sys.executable} -I -m molt_worker"
        for transport in transports:
            with Client(transport=transport, executors=1, runtime_dir=directory, linger_ms=0) as client:
                payload = {"hello": "world", "blob": b"x" * 1_000_000}
                assert client.call("echo", payload, timeout_ms=30_000) == payload, transport
                assert client.ping()["transport"] == transport
    print(f"{', '.join(transports)}: {os.path.dirname(sys.modules['molt_accel'].__file__ or '')}")


if __name__ == "__main__":
    main()
