"""The fork server: imports the exports once, then forks executors that have them already.

It stands between the supervisor, which never runs user code, and the executors, which do nothing else. As the
executors' parent, only the fork server signals and reaps them. So no signal can hit a process that has a dead
executor's pid by now. The fork server dies with the supervisor, and the executors die with the fork server.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from molt_accel.config import Config
from molt_accel.errors import MoltStartFailed, to_wire
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import FrameError, FrameParser, encode
from molt_accel.ipc.messages import Message, StartFailed
from molt_accel.process.role import Role, become
from molt_worker.compile import record as compiled
from molt_worker.entrypoints import project
from molt_worker.entrypoints.exports import ExportsError, ExportTable, look_in, resolve
from molt_worker.entrypoints.request import StopWord
from molt_worker.processes import commands, executor, sources
from molt_worker.processes.endpoint import MakeEndpoint
from molt_worker.processes.late_imports import LateImports
from molt_worker.runtime import log, streams

_PR_SET_PDEATHSIG: Final = 1
_CONTROL_FD: Final = 3
_MAX_FDS: Final = 64


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies. Only Linux can; elsewhere the sockets' end tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent died before that took effect
        os._exit(1)


def _close_connections() -> str:
    """Close the connections to databases that Django has opened, and pools of them. Returns those databases' names."""
    db = sys.modules.get("django.db")
    # Without its settings read Django has opened none; and to ask it would read them, which nobody else may want.
    if db is None or "settings" not in vars(db.connections):
        return ""
    initialised = db.connections.all(initialized_only=True)
    # A pool keeps connections that nobody has in use, and threads, which no executor would have.
    pooled = [each for each in initialised if each.alias in getattr(each, "_connection_pools", ())]
    open_now = [each for each in initialised if each.connection or each in pooled]
    for connection in open_now:
        connection.close()
    for connection in pooled:
        connection.close_pool()
    return ", ".join(connection.alias for connection in open_now)


def _ignore(signum: int, stack: object) -> None:
    """A handler that does nothing. Unlike SIG_IGN, programs that user code executes don't inherit it."""


def _keep_only(control: socket.socket, kept: tuple[int, ...]) -> socket.socket:
    """Close every descriptor of the supervisor's but the control socket, stderr and `kept`, which are above them."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(log.STDERR_FD, 1)  # what user code prints must not end up between frames
    fd = control.detach()
    # Through a number above all targets, so that neither dup2 overwrites what the other still needs.
    os.dup2(fd, _CONTROL_FD)
    first = _CONTROL_FD + 1
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, max(first, min(os.sysconf("SC_OPEN_MAX"), 65536)))
    os.set_inheritable(_CONTROL_FD, False)
    return socket.socket(fileno=_CONTROL_FD)


@dataclass(eq=False)
class Forkserver:
    """The fork server itself. Its supervisor has a `handles.ForkserverHandle` of it."""

    control: socket.socket  #: to the supervisor
    config: Config
    word_of: Callable[[int], StopWord]  #: the stop word of a slot
    make_endpoint: MakeEndpoint
    descriptors: tuple[int, ...] = ()  #: of the supervisor's, which executors need; numbers from 4 on

    def __post_init__(self) -> None:
        self._parser = FrameParser(messages=commands.TO_FORKSERVER)
        self._sockets: deque[int] = deque()  # descriptors that came before their `Spawn` was parsed
        self._pids: dict[int, int] = {}  # executor number -> pid
        self._exports = ExportTable(())
        self._in_project = False
        self._had_threads = False
        self._pool_name = ""  # known once the working directory is
        self._late_imports: LateImports  # made once this is a process of its own

    def main(self, supervisor_pid: int) -> NoReturn:
        """Live in a process just forked from the supervisor. Never returns."""
        code = 1
        try:
            die_with_parent(supervisor_pid)
            signal.set_wakeup_fd(-1)
            # Terminals and init systems send these to the whole group, but only the supervisor is to act on them.
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, _ignore)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            log.mend_stderr()
            self.control = _keep_only(self.control, self.descriptors)
            self._late_imports = LateImports()
            streams.renew()
            code = self._run()
        except BaseException as exc:
            error = f"{type(exc).__name__}: {exc}"
            self._log("error", "forkserver_failed", error=error)
            self._send(StartFailed(to_wire(MoltStartFailed(f"the fork server failed: {error}"))))
        finally:
            os._exit(code)

    def _run(self) -> int:
        began_ns = time.time_ns()
        config = self.config
        try:
            look_in(config.path)
            self._pool_name = config.pool_name  # once: it is worked out anew each time
            become(Role.FORKSERVER, self._pool_name)
            reference = project.exports_of(config.exports)
            if warning := compiled.enable(reference, config.compiled, config.build_dir):
                self._log("warning", "build_not_used", why=warning, hint=compiled.how_to(reference))
            self._in_project = project.set_up()
            self._exports = resolve(reference)
            if config.compiled == "require":
                compiled.require(self._exports, reference, config.build_dir)
        except ExportsError as exc:
            self._fail(exc)
            return commands.EXIT_BAD_EXPORTS
        if threading.active_count() > 1:
            names = ", ".join(thread.name for thread in threading.enumerate()[1:])
            hint = "executors are forked without them, and with the locks that they hold; start them in entrypoints"
            self._log("warning", "threads_at_import", hint=hint, threads=names)
        if names := _close_connections():
            hint = "no executor may share a connection that was made at import; each makes its own"
            self._log("warning", "connections_at_import", hint=hint, databases=names)
        # All executors share the pages of the objects that exist now, as long as the collector doesn't write to them.
        gc.collect()
        gc.freeze()
        failpoint("forkserver.imported")
        self._send(sources.imported(config.exports, began_ns))
        rows = [
            commands.ExportRow(
                *(item.name, item.codec_in, item.codec_out, item.target, item.compiled),
                *(item.max_concurrency, item.priority),
            )
            for item in self._exports
        ]
        self._send(commands.Ready(rows))
        self._loop()
        return 0

    def _fail(self, error: ExportsError) -> None:
        if error.__cause__ is not None and not isinstance(error.__cause__, OSError):
            text = "".join(traceback.format_exception(error.__cause__))
            self._log("error", "import_failed", traceback=text)
        self._send(StartFailed(to_wire(MoltStartFailed(str(error)))))

    def _log(self, level: str, event: str, **fields: object) -> None:
        log.write_blocking(self.config, level, event, fields)

    def _send(self, report: Message) -> None:
        with contextlib.suppress(OSError):  # the supervisor stops; the end of the socket comes next
            self.control.sendall(encode(report))

    def _loop(self) -> None:
        wake_r, wake_w = socket.socketpair()
        for end in (wake_r, wake_w):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, _ignore)  # user code may have set its own while it was imported
        signal.set_wakeup_fd(wake_w.fileno(), warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ)
            selector.register(wake_r, selectors.EVENT_READ)
            self._private = (selector, self.control, wake_r, wake_w)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is wake_r:
                        with contextlib.suppress(BlockingIOError):
                            wake_r.recv(4096)
                        self._reap()
                    elif not self._receive():
                        for number in self._pids:
                            self._signal(number, signal.SIGKILL)
                        for pid in self._pids.values():
                            os.waitpid(pid, 0)
                        return

    def _receive(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 65536, _MAX_FDS)
        except ConnectionResetError:  # the supervisor stopped without reading the last report
            return False
        self._sockets.extend(fds)
        if not data:
            return False
        self._parser.feed(data)
        for item in self._parser.frames():
            if isinstance(item, FrameError):
                raise item
            if isinstance(item, commands.Spawn):
                self._spawn(item.executor, item.slot)
            elif isinstance(item, commands.Interrupt):
                self._signal(item.executor, executor.INTERRUPT_SIGNAL)
            elif isinstance(item, commands.Kill):
                self._signal(item.executor, signal.SIGKILL)
        return True

    def _spawn(self, number: int, slot: int) -> None:
        sock = socket.socket(fileno=self._sockets.popleft())
        parent_pid = os.getpid()
        self._had_threads = threading.active_count() > 1
        self._late_imports.before_fork(number)
        failpoint("forkserver.forking")
        try:
            pid = os.fork()
        except OSError as exc:  # no memory or process left: the other executors live on
            sock.close()
            self._log("error", "executor_not_started", error=str(exc))
            self._send(commands.Exited(number, 1))
            return
        if pid == 0:
            self._become_executor(sock, number, slot, parent_pid)
        with contextlib.suppress(OSError):  # the executor may have done so itself, or be gone
            os.setpgid(pid, pid)
        sock.close()
        self._pids[number] = pid
        failpoint("forkserver.forked")
        self._send(commands.Spawned(number, pid))

    def _become_executor(self, sock: socket.socket, number: int, slot: int, parent_pid: int) -> NoReturn:
        code = 1
        try:
            die_with_parent(parent_pid)
            failpoint("executor.forked")
            # A group of its own: what user code starts is killed along with the executor.
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for private in self._private:
                private.close()
            for fd in self._sockets:
                os.close(fd)
            sock.setblocking(True)
            sock.set_inheritable(False)  # received descriptors are not, unlike those that Python opens
            self._late_imports.only_tell()
            become(Role.EXECUTOR, self._pool_name)
            log.mend_stderr()
            if self._had_threads:
                streams.renew()
            endpoint = self.make_endpoint(sock, number, slot)
            code = executor.serve(
                endpoint,
                self._exports,
                self.word_of(slot),
                number,
                self.config,
                self._late_imports,
                in_project=self._in_project,
            )
        except BaseException as exc:
            self._log("error", "executor_failed", error=f"{type(exc).__name__}: {exc}")
        finally:
            os._exit(code)

    def _signal(self, number: int, signum: signal.Signals) -> None:
        pid = self._pids.get(number)
        if pid is None:
            return  # the executor has exited, and the report is on its way
        failpoint("forkserver.signalling")
        if signum == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signum)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)

    def _reap(self) -> None:
        for number, pid in list(self._pids.items()):
            if hasattr(os, "waitid"):  # not on macOS before Python 3.13
                # Look without reaping: while the zombie holds its pid, the process group can't be another's.
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    continue
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            reaped, status = os.waitpid(pid, os.WNOHANG)
            if not reaped:
                continue
            del self._pids[number]
            if names := self._late_imports.after_exit(number):
                hint = "import them at the top of the exports' module"
                self._log("warning", "late_imports_given_up", modules=", ".join(names), hint=hint)
            failpoint("forkserver.reaped")
            self._send(commands.Exited(number, os.waitstatus_to_exitcode(status)))
