"""The configuration: one frozen `Config`. Only this module reads environment variables and settings.

Each field carries its environment name, command line flag, parser and help text. The environment, the Django
settings, the worker's command line and the reference table are all made from these.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from molt_accel.durations import in_ms
from molt_accel.errors import MoltBusy, http_status
from molt_accel.ipc.frame import DEFAULT_MAX_FRAME_BYTES, HEADER_BYTES
from molt_accel.overload.admission import DEFAULT_TARGET_MS
from molt_accel.process import identity, role, testdb

Parser = Callable[[object], Any]

_POOL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
COMPILED_MODES: Final = ("prefer", "require", "off")


class ConfigError(ValueError):
    """A setting has a value that isn't allowed. The text names the setting, the value and what is allowed."""


#: What nats-py can connect by.
_NATS_SCHEMES: Final = ("nats", "tls", "ws", "wss")


def _whole(low: int, high: int) -> Parser:
    def parse(value: object) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return parse


def _ms(low: int, high: int) -> Parser:
    def parse(value: object) -> int:
        with contextlib.suppress(TypeError, ValueError):
            number = int(value) if isinstance(value, str) else in_ms("", value)
            if low <= number <= high and number == int(number):
                return int(number)
        raise ValueError(f"a whole number of ms from {low} to {high}, or a datetime.timedelta")

    return parse


def _choice(*allowed: object) -> Parser:
    def parse(value: object) -> object:
        for option in allowed:
            if value == option or (isinstance(value, str) and value.strip().lower() == str(option)):
                return option
        raise ValueError("one of " + ", ".join(str(option) for option in allowed))

    return parse


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("one of 1, true, yes, on, 0, false, no, off")


def _text(value: object) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("a text")
    return value


def _pool_name(value: object) -> str:
    text = _text(value)
    if text and not _POOL_NAME.fullmatch(text):
        raise ValueError("1 to 64 of letters, digits, '.', '_' and '-', not beginning with '.' or '-'")
    return text


_SUBJECT: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def _subject(value: object) -> str:
    text = _text(value)
    if not _SUBJECT.fullmatch(text):
        raise ValueError("words of letters, digits, '_' and '-', separated by '.'")
    return text


def _address(value: object) -> str:
    text = _text(value)
    host, colon, port = text.rpartition(":")
    if text and not (host and colon and port.isdecimal() and port.isascii() and int(port) <= 65535):
        raise ValueError("HOST:PORT, for example 127.0.0.1:9464 or [::1]:9464")
    return text


def _nats_urls(value: object) -> str:
    """One or more servers of NATS; empty: none. A server without a scheme, or without a port, is one too."""
    text = _text(value)
    for each in text.split(",") if text.strip() else ():
        scheme, found, rest = each.strip().rpartition("://")
        try:
            parts = urlsplit(f"//{rest}")
            wrong = not parts.hostname or parts.port == 0 or (found and scheme not in _NATS_SCHEMES)
        except ValueError:  # a port that is none
            wrong = True
        if wrong:
            raise ValueError("servers separated by commas, each nats://HOST:PORT or tls://HOST:PORT")
    return text


def _command(value: object) -> str:
    if isinstance(value, (list, tuple)):
        value = shlex.join(_text(part) for part in value)
    text = _text(value)
    try:
        shlex.split(text)
    except ValueError as exc:
        raise ValueError(f"a command as a shell would split it ({exc})") from exc
    return text


#: Settings that only clients read. Processes that differ in nothing else share a pool.
_NOT_THE_WORKERS: Final = frozenset(
    {
        "MOLT_TRANSPORT",
        "MOLT_WORKER_AUTOSTART",
        "MOLT_CANCEL_ON_HALF_CLOSE",
        "MOLT_BUSY_HTTP_STATUS",
        "MOLT_MAX_IN_FLIGHT",
        "MOLT_OVERFLOW",
        "MOLT_NATS_URL",
        "MOLT_NATS_SUBJECT",
        "MOLT_NATS_CREDS",
        "MOLT_NATS_NKEY",
        "MOLT_NATS_USER",
        "MOLT_NATS_PASSWORD",
        "MOLT_NATS_CA",
        "MOLT_NATS_CERT",
        "MOLT_NATS_KEY",
        "MOLT_BRIDGE_METRICS",
    }
)
#: Settings that `identity()` already covers in normalised form, so the pool's name leaves them out.
_IN_IDENTITY: Final = frozenset({"MOLT_EXPORTS", "MOLT_IGNORED_ENV"})
DOTTED_NAME: Final = r"[^\W\d]\w*(\.[^\W\d]\w*)*"  #: of a module, or of an attribute in one
_DOTTED_NAMES: Final = re.compile(f"{DOTTED_NAME}(,{DOTTED_NAME})*")


def is_manifest_path(reference: str) -> bool:
    """Whether an exports reference that isn't empty means a file and not modules, separated by commas."""
    return reference.endswith(".json") or os.sep in reference or not _DOTTED_NAMES.fullmatch(reference)


def _joined(folders: list[str]) -> str:
    return os.pathsep.join(re.sub(rf"[\\{os.pathsep}]", r"\\\g<0>", folder) for folder in folders)


def _split(path: str) -> list[str]:
    parts = re.findall(rf"(?s:\\.|[^{os.pathsep}])+", path)
    return [re.sub(r"(?s)\\(.)", r"\1", part) for part in parts]


def default_executors() -> int:
    """Return the number of CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _setting(env: str, flag: str, parser: Parser, default: object, help_text: str) -> Any:
    """Make a field of Config. `flag` is the worker's command line flag; empty: the worker has none for it."""
    metadata = {"env": env, "flag": flag, "parser": parser, "help": help_text}
    return dataclasses.field(default=default, metadata=metadata)


class _Made:
    """What a configuration has besides its settings."""

    __slots__ = ("inherited",)
    inherited: identity.Inherited


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(_Made):
    """Everything that can be configured. Build it with `Config.load`, which checks every value.

    Times are milliseconds or microseconds and sizes bytes or MiB, as the names say.
    """

    # fmt: off
    transport: str = _setting("MOLT_TRANSPORT", "", _choice("auto", "shm", "stdio", "nats", "inline"), "auto",
        "auto (shm where it can run, else stdio), shm, stdio, nats (pools of other hosts), or inline (in this "
        "process, for tests)")
    overflow: str = _setting("MOLT_OVERFLOW", "", _choice("off", "nats"), "off",
        "where a call goes that the local pool refuses as Busy: nats (pools of other hosts), or off")
    nats_url: str = _setting("MOLT_NATS_URL", "", _nats_urls, "",
        "NATS servers, separated by commas: nats://HOST:PORT, or tls://HOST:PORT")
    nats_subject: str = _setting("MOLT_NATS_SUBJECT", "", _subject, "molt",
        "prefix of the subjects on NATS, one for each kind of pool; an entrypoint's name comes behind it")
    nats_creds: str = _setting("MOLT_NATS_CREDS", "", _text, "",
        "credentials file for NATS, with a JWT and a seed")
    nats_nkey: str = _setting("MOLT_NATS_NKEY", "", _text, "", "file with the seed of an nkey for NATS")
    nats_user: str = _setting("MOLT_NATS_USER", "", _text, "", "user name for NATS")
    nats_password: str = _setting("MOLT_NATS_PASSWORD", "", _text, "", "its password")
    nats_ca: str = _setting("MOLT_NATS_CA", "", _text, "",
        "certificates that NATS servers must be signed by; empty: those that the system trusts")
    nats_cert: str = _setting("MOLT_NATS_CERT", "", _text, "",
        "certificate to show to NATS servers, where they demand one")
    nats_key: str = _setting("MOLT_NATS_KEY", "", _text, "", "the key of that certificate")
    bridge_metrics: str = _setting("MOLT_BRIDGE_METRICS", "", _address, "",
        "HOST:PORT at which a bridge tells its statistics by HTTP; empty: nowhere")
    worker_cmd: str = _setting("MOLT_WORKER_CMD", "", _command, "",
        "command that starts a worker, split as a shell splits words; empty: molt-worker")
    pool: str = _setting("MOLT_POOL", "", _pool_name, "",
        "which of MOLT_POOLS this is; pools of different names are never shared")
    worker_name: str = _setting("MOLT_WORKER_NAME", "", _pool_name, "",
        "name of the pool to attach to (shm); empty: one for this project and these settings")
    autostart: bool = _setting("MOLT_WORKER_AUTOSTART", "", _flag, True,
        "start the named pool if nobody serves it (shm); 0 where systemd or another supervisor does")
    linger_ms: int = _setting("MOLT_WORKER_LINGER_MS", "", _ms(0, 86_400_000), 5000,
        "how long a pool that a client started stays after the last one has left, in ms (shm)")
    import_path: str = _setting("MOLT_IMPORT_PATH", "", _text, "",
        "folders that the exports are imported from, separated by colons (one that is part of a name: after a "
        "backslash); empty: as in the client's sys.path")
    ignored_env: str = _setting("MOLT_IGNORED_ENV", "", _text, "",
        "environment variables in which processes that share a pool may differ, separated by commas (shm)")
    runtime_dir: str = _setting("MOLT_RUNTIME_DIR", "", _text, "",
        "directory of the pools' sockets, of mode 0700 (shm); empty: /tmp/molt-<uid>")
    arena_mb: int = _setting("MOLT_WORKER_ARENA_MB", "--arena-mb", _whole(1, 65536), 16,
        "shared memory that a pool may reserve, in MiB (shm)")
    exports: str = _setting("MOLT_EXPORTS", "--exports", _text, "",
        "manifest path or package.module; empty: the packaged exports (health, echo)")
    compiled: str = _setting("MOLT_COMPILED", "--compiled", _choice(*COMPILED_MODES), "prefer",
        "take what molt-worker build has made of the exports: prefer (if it is of these sources), "
        "require, or off")
    build_dir: str = _setting("MOLT_BUILD_DIR", "--build-dir", _text, "",
        "folder of builds; empty: .molt-build beside the exports")
    executors: int = _setting("MOLT_WORKER_EXECUTORS", "--executors", _whole(0, 512), 0,
        "executor processes; 0: one per usable CPU")
    max_queue: int = _setting("MOLT_WORKER_MAX_QUEUE", "--max-queue", _whole(0, 65536), 64,
        "places in the bounded queue")
    max_wait_ms: int = _setting("MOLT_WORKER_MAX_WAIT_MS", "--max-wait-ms", _ms(0, 600_000), 0,
        "longest wait for a place in a full queue before Busy, in ms")
    queue_target_ms: int = _setting("MOLT_WORKER_QUEUE_TARGET_MS", "--queue-target-ms", _ms(0, 600_000),
        DEFAULT_TARGET_MS,
        "how long requests may stand in the queue before new ones are refused, in ms; a burst passes; 0: no limit")
    grace_ms: int = _setting("MOLT_WORKER_GRACE_MS", "--grace-ms", _ms(0, 600_000), 100,
        "between the soft interrupt and SIGKILL, in ms")
    max_requests: int = _setting("MOLT_WORKER_MAX_REQUESTS", "--max-requests", _whole(0, 2**31 - 1), 0,
        "requests after which an executor is replaced; 0: never")
    max_rss_mb: int = _setting("MOLT_WORKER_MAX_RSS_MB", "--max-rss-mb", _whole(0, 2**31 - 1), 0,
        "resident memory in MiB above which an executor is replaced; 0: never")
    spin_us: int | None = _setting("MOLT_SPIN_US", "", _whole(0, 1_000_000), None,
        "longest spin before sleeping, in us (shm); 0 never spins")
    max_frame_bytes: int = _setting("MOLT_MAX_FRAME_BYTES", "--max-frame-bytes",
        _whole(4096 + HEADER_BYTES, 2**31 - 1), DEFAULT_MAX_FRAME_BYTES,
        "largest frame, payload and header together, in bytes")
    start_timeout_ms: int = _setting("MOLT_WORKER_START_TIMEOUT_MS", "--start-timeout-ms",
        _ms(1, 600_000), 30_000,
        "longest time the exports may take to import at start, in ms")
    log: str = _setting("MOLT_WORKER_LOG", "--log", _text, "",
        "where a pool logs and its entrypoints print (shm): file (NAME.log in the runtime directory), stderr, or a "
        "path to append to; empty: file for a pool that a client starts, else stderr")
    log_json: bool = _setting("MOLT_LOG_JSON", "--log-json", _flag, False,
        "log one JSON object a line instead of text")
    log_level: str = _setting("MOLT_LOG_LEVEL", "--log-level",
        _choice("debug", "info", "warning", "error"), "info",
        "debug (a line per request), info (what happens to the worker), warning (a line per failed "
        "request), error")
    cancel_on_half_close: bool = _setting("MOLT_CANCEL_ON_HALF_CLOSE", "", _flag, True,
        "cancel the calls of an HTTP client that has closed its sending half (TCP); 0: only those of one that is "
        "known to be gone")
    max_in_flight: int | None = _setting("MOLT_MAX_IN_FLIGHT", "", _whole(1, 65536), None,
        "calls of one server process that may be under way to a pool; one more is Busy at once; none: no limit, but "
        "what threads of the server are left for other views")
    busy_http_status: int = _setting("MOLT_BUSY_HTTP_STATUS", "", _choice(429, 503), http_status(MoltBusy),
        "HTTP status of Busy: 429 or 503")
    # fmt: on

    def __post_init__(self) -> None:
        object.__setattr__(self, "inherited", identity.Inherited())

    @classmethod
    def load(
        cls,
        *,
        environ: Mapping[str, str] | None = None,
        settings: object = None,
        pool: str = "default",
        **overrides: object,
    ) -> Config:
        """Read and check the configuration.

        First wins: overrides, the pool's row in the Django setting ``MOLT_POOLS``, Django settings, environment,
        defaults.

        Args:
            pool: A key of ``MOLT_POOLS``. ``default`` need not be there.
            environ: Environment variables. Default: those of this process.
            settings: An object whose attributes are settings. Default: Django's settings, if Django is set up.
            overrides: Fields by name, for example ``executors=2``; None means "not given".

        Raises:
            ConfigError: a value is not allowed, or an override is no field.
        """
        environ = os.environ if environ is None else environ
        settings = _django_settings() if settings is None else settings
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(overrides) - set(fields))
        if unknown:
            raise ConfigError(f"unknown option {unknown[0]!r}; allowed: {', '.join(fields)}")
        row = _pool_row(settings, pool, fields)
        values = {}
        for name, field in fields.items():
            env = field.metadata["env"]
            if overrides.get(name) is not None:
                source, value = name, overrides[name]
            elif name in row:
                source, value = f"MOLT_POOLS[{pool!r}][{name.upper()!r}]", row[name]
            elif getattr(settings, env, None) is not None:
                source, value = f"{env} (Django setting)", getattr(settings, env)
            elif env in environ:
                source, value = env, environ[env]
            else:
                continue
            try:
                values[name] = field.metadata["parser"](value)
            except ValueError as exc:
                raise ConfigError(f"{source}: {value!r} is not allowed; it must be {exc}") from exc
        if testdb.active() and "transport" not in overrides and not _overridden(settings, "MOLT_TRANSPORT"):
            # Whatever the project has set: its tests must not run in its worker.
            values["transport"] = "inline"
        if testdb.active():  # a pool that a test asks for stops with the test's client
            values.setdefault("linger_ms", 0)
        return cls(**values)

    def environ(self) -> dict[str, str]:
        """Return the environment variables from which a worker reads this same configuration.

        Empty texts are among them, so that they override variables that the worker inherits.
        """
        values = {field.metadata["env"]: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["MOLT_IMPORT_PATH"] = _joined(self.path)
        values["MOLT_IGNORED_ENV"] = " ".join(sorted(self._unsaid()))
        values[testdb.VARIABLE] = testdb.names() or None
        values[role.VARIABLE] = ""  # whoever starts it, a worker belongs to no other worker
        return {env: str(value) for env, value in values.items() if value is not None}

    @property
    def path(self) -> list[str]:
        """The folders that the exports are imported from, besides the working directory and Python's own."""
        return _split(self.import_path) if self.import_path else identity.import_path(self.inherited.path)

    def identity(self) -> dict[str, str]:
        """Return what processes must have in common to share a pool; see `molt_accel.process.identity`.

        Raises:
            MoltStartFailed: the working directory was deleted.
        """
        own = {field.metadata["env"] for field in dataclasses.fields(self)} | {testdb.VARIABLE, role.VARIABLE}
        environ = {name: value for name, value in self.inherited.environ.items() if name not in own}
        exports = os.path.realpath(self.exports) if is_manifest_path(self.exports) else self.exports
        return identity.of_this_process(exports if self.exports else None, self.path, environ, self._unsaid())

    def _unsaid(self) -> set[str]:
        """The environment variables that the identity leaves out. A worker and its executors leave out the same."""
        unsaid = set(self.ignored_env.replace(",", " ").split())
        zone = getattr(_settings_that_are_read(), "TIME_ZONE", None)
        if zone and self.inherited.environ.get("TZ") == zone:  # Django has put it there
            unsaid.add("TZ")
        return unsaid

    @property
    def pool_name(self) -> str:
        """The name of the pool to attach to: `worker_name`; if that is empty, a name made from the configuration.

        Processes of the same identity and with the same worker settings get the same name; all others get another one.
        So no client attaches by accident to executors that run something else.
        """
        if self.worker_name:
            return self.worker_name
        other = _NOT_THE_WORKERS | _IN_IDENTITY
        settings = {env: value for env, value in self.environ().items() if env not in other}
        told = identity.digest([self.identity(), settings])
        project = re.sub(r"[^A-Za-z0-9_]", "_", os.path.basename(os.getcwd()))[:32] or "root"
        return f"{project}-{told[:12]}"

    @property
    def pool_directory(self) -> str:
        """The directory of the pools' sockets. Login sessions and services of one user get the same."""
        return self.runtime_dir or f"/tmp/molt-{os.getuid()}"  # noqa: S108  # its owner and mode are checked

    def log_file(self, *, outlives: bool) -> str:
        """The file that the worker logs to; empty: its standard error.

        Args:
            outlives: The worker may outlive the process that starts it, whose standard error it must not keep then.
        """
        wanted = self.log or ("file" if outlives else "stderr")
        return {"file": self.own_log, "stderr": ""}.get(wanted, wanted)

    @property
    def own_log(self) -> str:
        """The file that a pool logs to unless it is told otherwise."""
        return os.path.join(self.pool_directory, f"{self.pool_name}.log")

    @property
    def pool_size(self) -> int:
        """The number of executors to run: `executors`, or the number of usable CPUs if that is 0."""
        return self.executors or default_executors()


def pool_names() -> list[str]:
    """Return the names of all pools that the Django setting ``MOLT_POOLS`` has, and ``default``."""
    pools = getattr(_django_settings(), "MOLT_POOLS", {})
    return sorted({"default", *map(str, pools)})


def _pool_row(settings: object, pool: str, fields: Mapping[str, object]) -> dict[str, object]:
    """What MOLT_POOLS says of a pool, by the names of Config's fields."""
    pools = getattr(settings, "MOLT_POOLS", {})
    if not isinstance(pools, Mapping):
        raise ConfigError(
            f"MOLT_POOLS: {pools!r} is not allowed; it must map names of pools to their settings"
        )
    if pool not in pools and pool != "default":
        known = ", ".join(sorted({"default", *map(str, pools)}))
        raise ConfigError(f"MOLT_POOLS has no pool {pool!r}; it has: {known}")
    row = pools.get(pool, {})
    allowed = {name.upper(): name for name in fields}
    if not isinstance(row, Mapping) or not row.keys() <= allowed.keys():
        given = sorted(map(str, row.keys() - allowed.keys())) if isinstance(row, Mapping) else row
        raise ConfigError(f"MOLT_POOLS[{pool!r}]: {given} is not allowed; allowed: {', '.join(allowed)}")
    named = {} if pool == "default" else {"pool": pool}
    return {**named, **{allowed[key]: value for key, value in row.items()}}


def _overridden(settings: object, name: str) -> bool:
    """Whether a test has set this Django setting, by ``override_settings``."""
    conf = sys.modules.get("django.conf")
    holder = getattr(settings, "_wrapped", None)
    if conf is None:
        return False
    # Each override is a holder above the settings. Where a project calls `settings.configure`, that made the lowest.
    while isinstance(
        below := getattr(holder, "default_settings", None), (conf.Settings, conf.UserSettingsHolder)
    ):
        if name in vars(holder):
            return True
        holder = below
    return False


def _django_settings() -> object | None:
    # Django is not imported for this: a process that hasn't imported it has no settings to read.
    conf = sys.modules.get("django.conf")
    if conf is not None and not conf.settings.configured and os.environ.get("DJANGO_SETTINGS_MODULE"):
        try:
            dir(conf.settings)  # reads them; `getattr` with a default would hide an AttributeError in them
        except Exception as exc:
            exc.add_note(
                "Raised by Django's settings (DJANGO_SETTINGS_MODULE), which a molt_accel client reads."
            )
            raise
    return _settings_that_are_read()


def _settings_that_are_read() -> object | None:
    """Django's settings, unless they would only be read now: in the middle of a call that must not fail."""
    conf = sys.modules.get("django.conf")
    return conf.settings if conf is not None and conf.settings.configured else None
