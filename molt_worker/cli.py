"""The command ``molt-worker``: arguments over environment into one `Config`, then run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence

from molt_accel import __version__
from molt_accel.config import Config, ConfigError
from molt_accel.errors import MoltWorkerUnavailable
from molt_accel.ipc.frame import Frame, Kind, encode
from molt_worker.exports import ExportsError, check, resolve
from molt_worker.log import STDERR_FD, LogSink
from molt_worker.runner import error_response
from molt_worker.supervisor import Supervisor
from molt_worker.template import EXIT_BAD_EXPORTS

_EPILOG = """\
Every option has an environment variable (in brackets); the option wins. Signals: SIGTERM finishes what was
accepted and exits, SIGINT stops at once, SIGHUP imports the exports anew without losing a request.

Try it:  python -c "from molt_accel import Client; print(Client().call('echo', {'hello': 'world'}))"
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="molt-worker",
        description="Runs exported entrypoints in a pool of executor processes. Usually started by a\n"
        "molt_accel.Client, which speaks to it in frames; see docs/reference/protocol.md.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"molt-worker {__version__}")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--stdio", action="store_true", help="serve one client on stdin and stdout")
    mode.add_argument("--check", action="store_true", help="import the exports, list them, and exit")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code: 0 stopped as asked, 2 wrong usage or exports."""
    _ensure_stderr()
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    stdio, only_check = options.pop("stdio"), options.pop("check")
    try:
        config = Config.load(**options)
        if only_check:
            return _list_exports(config)
        if not stdio and config.transport != "stdio":
            parser.error("say how to serve: --stdio")
        # The structure of the exports is checked here, by one line; importing them is the template's work.
        check(config.exports)
    except (ConfigError, ExportsError) as exc:
        print(f"molt-worker: {exc}", file=sys.stderr)
        if not only_check and not os.isatty(1):  # a client is there: its calls shall fail with this text
            notice = encode(error_response(Frame(Kind.REQUEST, 0), MoltWorkerUnavailable(str(exc))))
            with contextlib.suppress(OSError):  # or else nobody is
                os.write(1, notice)
        return EXIT_BAD_EXPORTS
    return _serve_stdio(config)


def _list_exports(config: Config) -> int:
    sys.path.insert(0, os.getcwd())
    for item in resolve(config.exports):
        print(f"{item.name}  {item.target}  {item.codec_in.label} -> {item.codec_out.label}")
    return 0


def _ensure_stderr() -> None:
    """Where this was started with stderr closed, the next descriptor opened must not become the log."""
    try:
        os.fstat(STDERR_FD)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR_FD)
        sys.stderr = os.fdopen(STDERR_FD, "w", closefd=False)


def _serve_stdio(config: Config) -> int:
    # Frames get descriptors of their own, so that nothing that prints can get between them.
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(STDERR_FD, 1)
    log = LogSink(as_json=config.log_json, level=config.log_level)
    try:
        return Supervisor(config, read_fd, write_fd, log).run()
    finally:
        log.close()
