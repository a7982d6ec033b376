"""The client: calls entrypoints of a worker, from any number of threads and tasks."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from molt_accel.bulkheads import Bulkheads, Passage
from molt_accel.call import Call, Reply, make_call, report_refusal
from molt_accel.config import Config, ConfigError
from molt_accel.durations import Milliseconds, in_ms
from molt_accel.errors import MoltBusy
from molt_accel.ipc.messages import PING, PING_FOLDERS, WORKER_DEFAULT_WAIT
from molt_accel.options import HOOKS, CallOptions, Entry, entry_name
from molt_accel.overload.places import Places
from molt_accel.overload.server_threads import SERVER_THREADS
from molt_accel.process import role, testdb
from molt_accel.transports import forks
from molt_accel.transports.base import Transport
from molt_accel.transports.opening import open_transport
from molt_accel.waits import adrive, drive


class Client:
    """Calls entrypoints in a worker, which it starts or attaches to at the first call.

    Thread-safe. After a fork, the child opens a connection of its own. Close the client, or use it as a context
    manager; at interpreter exit it is closed anyway.

    Args:
        config: The configuration; by default `Config.load`, with `overrides`.
        options: Defaults for this client's calls.
        overrides: Fields of `Config`, for example ``transport="stdio", executors=2``.

    Raises:
        ConfigError: a value is not allowed.
        MoltWorkerUnavailable: the configured transport can't run here.
        TypeError: both a configuration and overrides are given.
    """

    def __init__(
        self, config: Config | None = None, *, options: CallOptions | None = None, **overrides: Any
    ) -> None:
        if config is not None and overrides:
            raise TypeError("give either a Config or its fields, not both")
        self._under_tests: Final = testdb.active()  # or about to begin
        self.config: Final = config if config is not None else Config.load(**overrides)
        self.options: Final = options if options is not None else CallOptions()
        self._transport: Transport = open_transport(self.config)
        self._bulkheads: Final = Bulkheads(self.config, self._transport)
        self._is_limited: Final = self._bulkheads.limited
        # Checking the options of every call would cost more than encoding; there are few different ones.
        self._options_of = functools.lru_cache(maxsize=256)(functools.partial(_merge, self.options))
        # Runs at the latest at interpreter exit, while threads still run.
        self._finalizer = weakref.finalize(self, self._transport.close)
        living.add(self)

    def call(self, entry: Entry, payload: object = None, **options: Any) -> Any:
        """Call an entrypoint and return its result.

        Args:
            entry: The entrypoint's name, or its function, marked with ``@molt_worker.export``.
            payload: Its argument; anything that the codec can encode.
            options: Fields of `CallOptions`, for example ``timeout_ms=250``; and ``metadata``, a mapping of
                texts to texts, numbers, booleans or None, which the entrypoint reads with
                ``current_request().metadata``. It may have 4,096 bytes, encoded.

        Raises:
            MoltError: the subclass says what happened; see `molt_accel.errors`.
            TypeError, ValueError: an option is unknown, or has a value that is not allowed.
        """
        return drive(self._call_with(entry, payload, options, blocks=True, value_only=True))

    async def acall(self, entry: Entry, payload: object = None, **options: Any) -> Any:
        """`call` for asyncio, with its arguments and errors. Cancelling the task cancels the request in the worker."""
        return await adrive(self._call_with(entry, payload, options, blocks=False, value_only=True))

    def reply(self, entry: Entry, payload: object = None, **options: Any) -> Reply:
        """`call`, with its arguments and errors, but returns the whole `Reply`: value, codec, metrics."""
        whole: Reply = drive(self._call_with(entry, payload, options, blocks=True))
        return whole

    async def areply(self, entry: Entry, payload: object = None, **options: Any) -> Reply:
        """`reply` for asyncio, with the arguments and errors of `call`."""
        whole: Reply = await adrive(self._call_with(entry, payload, options, blocks=False))
        return whole

    def _call_with(
        self,
        entry: Entry,
        payload: object,
        options: dict[str, Any],
        *,
        blocks: bool,
        value_only: bool = False,
    ) -> Call:
        if type(entry) is not str:
            entry = entry_name(entry)
        metadata = options.pop("metadata", None) if options else None
        if not options:
            merged = self._options_of(entry)
        elif not HOOKS.isdisjoint(options):  # a call's own hook must not live on in the cache
            merged = _merge(self.options, entry, *options.items())
        else:
            try:
                merged = self._options_of(entry, *options.items())
            # Perhaps only because a value has no hash; the options themselves say what is wrong.
            except TypeError:
                merged = _merge(self.options, entry, *options.items())
        limited = (self._is_limited or SERVER_THREADS.count) and entry != PING
        passage = Passage(self._bulkheads) if limited else None
        to = self._transport
        return make_call(to, merged, payload, None, metadata, passage, blocks=blocks, value_only=value_only)

    def make_call(
        self,
        options: CallOptions,
        payload: object,
        cancel_check: Callable[[], bool] | None = None,
        metadata: Mapping[str, Any] | None = None,
        places: Places | None = None,
        *,
        blocks: bool = False,
    ) -> Call:
        """Make a call as a generator, for `molt_accel.waits.drive` (which `blocks`) or `adrive`.

        `places` are those that it needs one of besides the client's.
        """
        limited = places is not None or self._is_limited or SERVER_THREADS.count
        passage = Passage(self._bulkheads, places) if limited else None
        return make_call(self._transport, options, payload, cancel_check, metadata, passage, blocks=blocks)

    def refusal(self, options: CallOptions, places: Places | None = None) -> MoltBusy | None:
        """Return the error of a call with these options if it would be refused now, reported as if it had been made.

        For those who can spare what comes before the call. Costs no message. None: it would be taken on, or may wait
        for a place in the queue, or nobody can say. Over stdio only the limits of this process are asked.
        """
        error = self._bulkheads.refusal(places)
        plan = options.plan
        may_wait = (
            plan.max_wait_ms if plan.max_wait_ms != WORKER_DEFAULT_WAIT else self._transport.max_wait_ms
        )
        overflow = self._transport.overflow
        goes_elsewhere = overflow is not None and overflow.has_room
        if error is None and not may_wait and not goes_elsewhere:
            error = self._transport.refusal(options.entry, plan.timeout_ns or None)
        if error is not None:
            report_refusal(options, error)
        return error

    def start(self, timeout_ms: Milliseconds | None = None) -> None:
        """Start the worker and wait until an executor is ready, so that the first call need not.

        It may stand in an ``AppConfig.ready``: where there is nothing to be made ready it does nothing. That is so in a
        worker that imports the exports, and before Django's tests have begun, whose databases are still to be made.

        Args:
            timeout_ms: How long to wait at most; by default the configured ``start_timeout_ms``.

        Raises:
            MoltWorkerUnavailable: the worker could not start; the text says why.
        """
        if role.imports_exports() or testdb.about_to_be():
            return
        limit_ms = self.config.start_timeout_ms if timeout_ms is None else timeout_ms
        self._transport.wait_ready(in_ms("timeout_ms", limit_ms) / 1000)

    def ping(self, timeout_ms: Milliseconds = 1000) -> dict[str, Any]:
        """Ask the worker's supervisor for its report: pids, pool, queue, counters. No executor is needed.

        Raises MoltError if the supervisor did not answer.
        """
        answer: dict[str, Any] = self.call(PING, timeout_ms=timeout_ms)
        return answer

    def folders(self, timeout_ms: Milliseconds = 1000) -> list[str]:
        """Ask the worker's supervisor for the folders of the project's modules that the exports have imported.

        A changed source in or below one of them makes the pool's code outdated. Empty before that import, and inline.
        Raises MoltError if the supervisor did not answer.
        """
        return list(self.call(PING, PING_FOLDERS, timeout_ms=timeout_ms).get("folders", ()))

    def close(self) -> None:
        """Stop what this client started. Calls in flight end as cancelled; later ones raise."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _merge(defaults: CallOptions, entry: str, *changes: tuple[str, Any]) -> CallOptions:
    return defaults.replace({**dict(changes), "entry": entry})


#: The clients of this process. `molt_accel.testing` stands between each of them and its worker.
living: Final[weakref.WeakSet[Client]] = weakref.WeakSet()
_clients: dict[str, Client] = {}
# On the way of every call: no function is called where no tests run.
_TESTS: Final = testdb.TESTS
_modules: Final = sys.modules


def client_for(pool: str) -> Client:
    """Return the client of a pool that the Django setting ``MOLT_POOLS`` names, made at first use.

    All that ask for the same pool share one client. When Django's tests begin, and when a test overrides a ``MOLT_``
    setting of this pool, the next use makes another.

    Raises:
        ConfigError: there is no such pool, or a value is not allowed.
    """
    client = _clients.get(pool)
    if client is None or (_TESTS in _modules and testdb.in_force() and not client._under_tests):
        client = _make_shared(pool, client)
    return client


def default_client() -> Client:
    """Return the client that decorated views share, made at first use from settings and environment."""
    return client_for("default")


def shared_client(pool: str) -> Client | None:
    """Return the client that those who use a pool share, if there is one already."""
    return _clients.get(pool)


def shared_clients() -> list[Client]:
    """Return the clients of pools that this process has used, as far as they are shared."""
    return list(_clients.values())


#: What makes the metadata of a call by `offload` where the caller's framework has a state: language and time zone.
surroundings: list[Callable[[], Mapping[str, Any]]] = []


def offload(entry: Entry, payload: object = None, *, pool: str = "default", **options: Any) -> Any:
    """Call an entrypoint from what is no view: a serializer, a command, a signal's receiver.

    Under Django the active language and time zone travel with the call, as with that of a decorated view.

    Args:
        entry, payload, options: As for `Client.call`. Metadata that is given wins.
        pool: Which pool of ``MOLT_POOLS``.

    Raises:
        MoltError: the subclass says what happened.
        ConfigError: there is no such pool, or a setting is not allowed.
    """
    for active in surroundings:
        options["metadata"] = {**active(), **(options.get("metadata") or {})}
    return client_for(pool).call(entry, payload, **options)


def _make_shared(pool: str, old: Client | None) -> Client:
    with forks.start_lock():
        client = _clients.get(pool)
        if client is not None and client is not old:
            return client  # another thread has made it
        testdb.on_override("MOLT_", _forget_clients)
        client = _clients[pool] = Client(Config.load(pool=pool))
    if old is not None:
        old.close()
    return client


def _forget_clients() -> None:
    """Close the shared clients whose settings were changed. The next use makes others."""
    with forks.start_lock():
        changed = {pool: client for pool, client in _clients.items() if not _is_current(pool, client)}
        for pool in changed:
            del _clients[pool]
    for client in changed.values():
        client.close()


def _is_current(pool: str, client: Client) -> bool:
    try:
        return Config.load(pool=pool) == client.config
    except ConfigError:  # the next use says what is wrong
        return False
