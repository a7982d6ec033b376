"""Runs calls in Python and compiled, in workers of their own, and compares what comes of them.

A worker is run by a process whose standard error is a file: from the worker's log there come the exceptions, of which
a client is told the type only.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import reprlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from molt_accel import codec
from molt_accel.client import Client
from molt_accel.errors import MoltError, MoltStartFailed, MoltWorkerUnavailable
from molt_accel.ipc.messages import Codec
from molt_accel.options import CallMetrics
from molt_worker.compile.record import CompiledError

_TIMEOUT_MS: Final = 60_000
_MISSING: Final = "(missing)"


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a file of calls. With the codec `raw`, the payload is a text: the bytes in Base64."""

    entry: str
    payload: Any = None
    codec: Literal["msgpack", "json", "raw"] = "msgpack"


class Outcome(msgspec.Struct, frozen=True):
    """What has come of a call: encoded, or the type and the text of an exception."""

    codec: str = ""
    data: bytes = b""
    error: str = ""

    @property
    def value(self) -> object:
        """The result; for an exception, its text in a tuple, which no result is."""
        return (self.error,) if self.error else codec.decode(self.codec, self.data)


def read_calls(path: Path) -> list[Call]:
    """Return the calls of a file, a JSON object a line: `entry`, `payload` and, unless it is msgpack, `codec`.

    Raises CompiledError, which names the line: it can't be read, is not in order, or has no call.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise CompiledError(f"{path}: can't be read: {exc.strerror}") from exc
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                call = msgspec.json.decode(line, type=Call)
                if call.codec == "raw":
                    base64.b64decode(call.payload, validate=True)
            except (ValueError, TypeError) as exc:
                raise CompiledError(f"{path}:{number}: {exc}") from exc
            found.append(call)
    if not found:
        raise CompiledError(f"{path}: has no calls")
    return found


def outcomes(reference: str, calls: Sequence[Call], build_dir: Path | None = None) -> list[Outcome]:
    """Run the calls one after the other on one executor, and return an outcome for each.

    Args:
        build_dir: The folder of the build to use; None: in Python.

    Raises CompiledError: the worker doesn't start, or an entrypoint is unknown or takes another codec.
    """
    given = (reference, str(build_dir or ""), calls)
    with tempfile.TemporaryFile() as log:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=msgspec.msgpack.encode(given),
            stdout=subprocess.PIPE,
            stderr=log,
            # The order of sets is that of their hashes, which differ from process to process.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"},
            check=False,
        )
        log.seek(0)
        raised = dict(_exceptions(log.read().decode(errors="replace")))
    if done.returncode:
        raise CompiledError(f"the calls can't be run: {done.stdout.decode(errors='replace').strip()}")
    found = msgspec.msgpack.decode(done.stdout, type=list[tuple[str, Outcome]])
    return [
        Outcome(error=raised[key]) if outcome.error and key in raised else outcome for key, outcome in found
    ]


def _exceptions(log: str) -> Iterator[tuple[str, str]]:
    """Yield the requests' ids and the texts of their exceptions, without the frames."""
    for line in log.splitlines():
        if line.startswith('{"ts"') and '"entrypoint_raised"' in line:
            row = json.loads(line)
            lines = row["traceback"].splitlines()
            frames = (number for number, each in enumerate(lines) if each.startswith("  File "))
            after = itertools.dropwhile(lambda each: each.startswith("  "), lines[max(frames, default=0) :])
            yield row["request_id"], "\n".join(after)


def _run(reference: str, build_dir: str, calls: Sequence[Call]) -> list[tuple[str, Outcome]]:
    """Run the calls in this process's own worker. Returns each request's id with its outcome."""
    found = []
    with Client(
        transport="stdio",
        worker_cmd=f"{sys.executable} -m molt_worker --log-json",
        exports=reference,
        executors=1,
        log_level="error",
        compiled="prefer" if build_dir else "off",
        build_dir=build_dir or None,
    ) as client:
        client.start()
        known = client.ping(timeout_ms=_TIMEOUT_MS)["exports"]
        for call in calls:
            if call.entry not in known:
                sys.exit(f"there is no entrypoint {call.entry!r}; there are: {', '.join(known)}")
            seen: list[CallMetrics] = []
            payload = base64.b64decode(call.payload) if call.codec == "raw" else call.payload
            try:
                reply = client.reply(
                    call.entry,
                    payload,
                    codec=call.codec,
                    timeout_ms=_TIMEOUT_MS,
                    decode_response=False,
                    metrics_hook=seen.append,
                )
                outcome = Outcome(Codec(reply.codec).label, reply.value)
            except (MoltStartFailed, MoltWorkerUnavailable):
                raise
            except MoltError as exc:
                outcome = Outcome(error=f"{type(exc).__name__}: {exc.detail}")
                if f"payloads, not {call.codec}" in exc.detail:
                    sys.exit(f'{exc.detail}: give it as "codec"')
            found.append((seen[0].request_id, outcome))
    return found


@dataclass(frozen=True)
class Expected:
    """The outcomes of the calls in Python, and the paths whose values differ between two runs in Python."""

    calls: Sequence[Call]
    found: list[Outcome]
    varying: list[set[str]]

    @classmethod
    def of(cls, reference: str, calls: Sequence[Call], say: Any) -> Expected:
        """Run the calls twice in Python."""
        first, second = outcomes(reference, calls), outcomes(reference, calls)
        varying = [
            {path for path, *_ in differences(a.value, b.value)} for a, b in zip(first, second, strict=True)
        ]
        for number, (call, paths) in enumerate(zip(calls, varying, strict=True), 1):
            if paths:
                where = ", ".join(sorted(paths)[:3])
                say(
                    f"call {number} ({call.entry}): Python's own results differ, so this isn't compared: {where}"
                )
        return cls(calls, first, varying)

    def difference(self, found: Sequence[Outcome]) -> str:
        """Return the first difference between Python's outcomes and these; empty: there is none."""
        for number, (call, expected, got, varying) in enumerate(
            zip(self.calls, self.found, found, self.varying, strict=True), 1
        ):
            for path, python, native in differences(expected.value, got.value):
                if path not in varying:
                    return f"call {number} ({call.entry}): {path}: {native} instead of {python}"
        return ""


def differences(python: object, native: object, path: str = "$") -> Iterator[tuple[str, str, str]]:
    """Yield the path, Python's value and the other value wherever two results differ.

    Types count, as 1, 1.0 and true are not the same in JSON, and so does the order of keys.
    """
    if isinstance(python, tuple) or isinstance(native, tuple):  # an exception
        if python != native:
            yield path, _shown(python), _shown(native)
    elif type(python) is not type(native):
        yield path, _shown(python), _shown(native)
    elif isinstance(python, dict) and isinstance(native, dict):
        if python.keys() == native.keys() and list(python) != list(native):
            yield path, f"keys in the order {_shown(list(python))}", _shown(list(native))
        for key in {**python, **native}:
            yield from differences(python.get(key, _MISSING), native.get(key, _MISSING), f"{path}.{key}")
    elif isinstance(python, list) and isinstance(native, list):
        if len(python) != len(native):
            yield path, f"{len(python)} items", f"{len(native)} items"
        for index, (a, b) in enumerate(zip(python, native, strict=False)):
            yield from differences(a, b, f"{path}[{index}]")
    elif python != native and repr(python) != repr(native):  # NaN is not equal to itself
        yield path, _shown(python), _shown(native)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"raises {value[0]}"
    return _MISSING if value is _MISSING else reprlib.repr(value)


def main() -> None:
    """Run the calls on standard input, and write their outcomes to standard output."""
    given = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=tuple[str, str, list[Call]])
    out = os.dup(1)
    os.dup2(2, 1)  # what entrypoints print is no outcome
    try:
        answer = msgspec.msgpack.encode(_run(*given))
    except (MoltError, SystemExit) as exc:
        os.write(out, str(exc).encode())
        os._exit(1)
    with os.fdopen(out, "wb") as stream:
        stream.write(answer)


if __name__ == "__main__":
    main()
