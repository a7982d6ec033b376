"""``molt-worker`` without a command: serves a pool, on stdin and stdout or in shared memory, or checks exports."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Sequence

from molt_accel.config import Config, ConfigError
from molt_accel.errors import MoltStartFailed, MoltWorkerUnavailable, to_wire
from molt_accel.ipc.frame import encode
from molt_accel.ipc.messages import StartFailed
from molt_accel.version import __version__
from molt_worker.compile.record import enable
from molt_worker.entrypoints.exports import ExportsError, check, look_in, resolve
from molt_worker.entrypoints.project import exports_of, set_up
from molt_worker.processes.commands import EXIT_BAD_EXPORTS
from molt_worker.runtime.log import STDERR_FD, LogSink
from molt_worker.supervisor.base import STOP_SIGNALS
from molt_worker.supervisor.shm.supervisor import ShmSupervisor
from molt_worker.supervisor.stdio.supervisor import StdioSupervisor

_EPILOG = """\
Every option has an environment variable (in brackets); the option wins. Signals: SIGTERM finishes what was
accepted and exits, SIGINT stops at once, SIGHUP imports the exports anew without losing a request.

Try it:  python -c "from molt_accel import Client; print(Client().call('echo', {'hello': 'world'}))"
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="molt-worker",
        usage="molt-worker (--stdio | --shm NAME | --check) [options]\n"
        "       molt-worker build [EXPORTS] [options]\n"
        "       molt-worker status [options]",
        description="Runs exported entrypoints in a pool of executor processes. Usually started by a\n"
        "molt_accel.Client, which speaks to it in frames; see docs/reference/protocol.md.\n"
        "molt-worker build compiles the exports to native code, and molt-worker status shows what a pool of\n"
        "shared memory is doing; see the --help of each.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"molt-worker {__version__}")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--stdio", action="store_true", help="serve one client on stdin and stdout")
    mode.add_argument(
        "--shm", metavar="NAME", help="serve the pool of this name to all clients of this user (Linux)"
    )
    mode.add_argument("--check", action="store_true", help="import the exports, list them, and exit")
    parser.add_argument(
        "--linger",
        action="store_true",
        help="with --shm: run in the background, and stop MOLT_WORKER_LINGER_MS after the last client has left",
    )
    for field in dataclasses.fields(Config):
        flag = field.metadata["flag"]
        if not flag:
            continue
        shown = "off" if field.default is False else "none" if field.default == "" else field.default
        text = f"{field.metadata['help']} [{field.metadata['env']}; default: {shown}]"
        if isinstance(field.default, bool):
            parser.add_argument(flag, dest=field.name, action="store_true", default=None, help=text)
        else:
            parser.add_argument(flag, dest=field.name, metavar=field.name.split("_")[-1].upper(), help=text)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run a worker until it stops. Returns its exit code: 0 stopped as asked, 2 wrong usage or exports."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    stdio, only_check = options.pop("stdio"), options.pop("check")
    name, linger = options.pop("shm"), options.pop("linger")
    try:
        config = Config.load(**options, worker_name=name)
        if only_check:
            return _list_exports(config)
        if name is None and not stdio and config.transport != "stdio":
            parser.error("say how to serve: --stdio or --shm NAME")
        # Only the structure of the exports is checked here. The fork server imports them.
        check(config.exports)
        return _serve_stdio(config) if name is None else _serve_shm(config, linger=linger)
    except (ConfigError, ExportsError, MoltWorkerUnavailable) as exc:
        print(f"molt-worker: {exc}", file=sys.stderr)
        if not only_check:
            _notify(exc)
        return EXIT_BAD_EXPORTS


def _notify(exc: Exception) -> None:
    """Tell a client that waits on the other end of stdout, so that its calls fail with this text."""
    if os.isatty(1):
        return
    error = exc if isinstance(exc, MoltWorkerUnavailable) and exc.code else MoltStartFailed(str(exc))
    notice = StartFailed(to_wire(error))
    with contextlib.suppress(OSError):  # nobody reads
        os.write(1, encode(notice))


def _list_exports(config: Config) -> int:
    # As the fork server does, so that it finds what the worker would.
    look_in(config.path)
    reference = exports_of(config.exports)
    enable(reference, config.compiled, config.build_dir)
    set_up()
    for item in resolve(reference):
        print(f"{item.name}  {item.target}  {item.codec_in.label} -> {item.codec_out.label}")
    return 0


def _serve_stdio(config: Config) -> int:
    # Frames get descriptors of their own, so that nothing that prints gets between them.
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(STDERR_FD, 1)
    with contextlib.closing(LogSink(as_json=config.log_json, level=config.log_level)) as log:
        return StdioSupervisor(config, read_fd, write_fd, log).run()


def _serve_shm(config: Config, *, linger: bool) -> int:
    if linger and os.fork():
        # The process that started this one must not have to reap it. It sees by the end of stdout when this listens.
        os._exit(0)
    with contextlib.closing(LogSink(as_json=config.log_json, level=config.log_level)) as log:
        # Blocked until `run` handles them: from here on, a worker that is killed leaves a socket behind.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        supervisor = ShmSupervisor(config, log, linger=linger)
        if path := config.log_file(outlives=linger):
            _move_log(log, path, bounded=path == config.own_log)
        supervisor.listen()
        os.dup2(STDERR_FD, 1)
        return supervisor.run()


def _move_log(log: LogSink, path: str, *, bounded: bool) -> None:
    try:
        log.move_to(path, bounded=bounded)
    except OSError as exc:
        raise MoltStartFailed(f"can't log to {path}: {exc.strerror}; set MOLT_WORKER_LOG") from exc
