"""molt_accel.config: every setting, where its value comes from, and what a bad one is told."""

import dataclasses
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel.config import Config, ConfigError, default_executors, pool_names
from molt_accel.process.identity import differences
from tests.support import ROOT
from tests.support.errors import raised

#: field -> (environment variable and Django setting, default, another value as text, and as the field has it)
SETTINGS: dict[str, tuple[str, object, str, object]] = {
    "transport": ("MOLT_TRANSPORT", "auto", "stdio", "stdio"),
    "overflow": ("MOLT_OVERFLOW", "off", "nats", "nats"),
    "nats_url": ("MOLT_NATS_URL", "", "nats://a:4222,nats://b:4222", "nats://a:4222,nats://b:4222"),
    "nats_subject": ("MOLT_NATS_SUBJECT", "molt", "shop.eu", "shop.eu"),
    "nats_creds": ("MOLT_NATS_CREDS", "", "/etc/shop.creds", "/etc/shop.creds"),
    "nats_nkey": ("MOLT_NATS_NKEY", "", "/etc/shop.nk", "/etc/shop.nk"),
    "nats_user": ("MOLT_NATS_USER", "", "web", "web"),
    "nats_password": ("MOLT_NATS_PASSWORD", "", "w", "w"),
    "nats_ca": ("MOLT_NATS_CA", "", "/etc/ca.pem", "/etc/ca.pem"),
    "nats_cert": ("MOLT_NATS_CERT", "", "/etc/web.pem", "/etc/web.pem"),
    "nats_key": ("MOLT_NATS_KEY", "", "/etc/web.key", "/etc/web.key"),
    "bridge_metrics": ("MOLT_BRIDGE_METRICS", "", "[::1]:9464", "[::1]:9464"),
    "worker_cmd": ("MOLT_WORKER_CMD", "", "python 'a b'", "python 'a b'"),
    "pool": ("MOLT_POOL", "", "reports", "reports"),
    "worker_name": ("MOLT_WORKER_NAME", "", "pool", "pool"),
    "autostart": ("MOLT_WORKER_AUTOSTART", True, "0", False),
    "linger_ms": ("MOLT_WORKER_LINGER_MS", 5000, "0", 0),
    "import_path": ("MOLT_IMPORT_PATH", "", "/srv/lib", "/srv/lib"),
    "ignored_env": ("MOLT_IGNORED_ENV", "", "UNKNOWN", "UNKNOWN"),
    "runtime_dir": ("MOLT_RUNTIME_DIR", "", "/run/app", "/run/app"),
    "arena_mb": ("MOLT_WORKER_ARENA_MB", 16, "64", 64),
    "exports": ("MOLT_EXPORTS", "", "app.entry", "app.entry"),
    "compiled": ("MOLT_COMPILED", "prefer", "require", "require"),
    "build_dir": ("MOLT_BUILD_DIR", "", "/srv/build", "/srv/build"),
    "executors": ("MOLT_WORKER_EXECUTORS", 0, "3", 3),
    "max_queue": ("MOLT_WORKER_MAX_QUEUE", 64, "0", 0),
    "max_wait_ms": ("MOLT_WORKER_MAX_WAIT_MS", 0, "20", 20),
    "queue_target_ms": ("MOLT_WORKER_QUEUE_TARGET_MS", 100, "0", 0),
    "grace_ms": ("MOLT_WORKER_GRACE_MS", 100, "0", 0),
    "max_requests": ("MOLT_WORKER_MAX_REQUESTS", 0, "1000", 1000),
    "max_rss_mb": ("MOLT_WORKER_MAX_RSS_MB", 0, "512", 512),
    "spin_us": ("MOLT_SPIN_US", None, "0", 0),
    "max_frame_bytes": ("MOLT_MAX_FRAME_BYTES", 64 * 1024 * 1024, "4176", 4176),
    "start_timeout_ms": ("MOLT_WORKER_START_TIMEOUT_MS", 30_000, "1", 1),
    "log": ("MOLT_WORKER_LOG", "", "stderr", "stderr"),
    "log_json": ("MOLT_LOG_JSON", False, "yes", True),
    "log_level": ("MOLT_LOG_LEVEL", "info", "error", "error"),
    "cancel_on_half_close": ("MOLT_CANCEL_ON_HALF_CLOSE", True, "0", False),
    "max_in_flight": ("MOLT_MAX_IN_FLIGHT", None, "40", 40),
    "busy_http_status": ("MOLT_BUSY_HTTP_STATUS", 429, "503", 503),
}

each_setting = pytest.mark.parametrize("name", SETTINGS)


def load(environ: dict[str, str] | None = None, settings: object = None, **overrides: Any) -> Config:
    settings = settings or SimpleNamespace(MOLT_POOLS={"reports": {}})
    return Config.load(environ=environ or {}, settings=settings, **overrides)


def test_there_are_exactly_the_documented_settings() -> None:
    known = {field.name: field.metadata["env"] for field in dataclasses.fields(Config)}
    assert known == {name: row[0] for name, row in SETTINGS.items()}


@each_setting
def test_a_setting_has_its_documented_default(name: str) -> None:
    default = SETTINGS[name][1]
    assert getattr(load(), name) == default
    assert getattr(Config(), name) == default


@each_setting
def test_every_source_sets_a_setting(name: str) -> None:
    env, _, text, value = SETTINGS[name]
    assert getattr(load({env: text}), name) == value
    assert getattr(load(settings=SimpleNamespace(**{env: text})), name) == value
    assert getattr(load(settings=SimpleNamespace(**{env: value})), name) == value
    assert getattr(load(**{name: value}), name) == value


@each_setting
def test_overrides_win_over_django_settings_over_environment_over_default(name: str) -> None:
    env, default, text, value = SETTINGS[name]
    settings = SimpleNamespace(**{env: value})
    shown = None if default is None else str(default)
    if shown is not None:
        assert getattr(load({env: shown}, settings), name) == value
        if name != "pool":  # as an argument it names a row of MOLT_POOLS
            assert getattr(load({env: text}, settings, **{name: default}), name) == default
    unset = {} if name == "pool" else {name: None}
    assert getattr(load({env: text}, SimpleNamespace(**{env: None}), **unset), name) == value


@each_setting
def test_a_field_has_a_help_text(name: str) -> None:
    field = next(field for field in dataclasses.fields(Config) if field.name == name)
    assert len(field.metadata["help"]) > 10


_WHOLE = "it must be a whole number from {} to {}"
_MS = "it must be a whole number of ms from {} to {}, or a datetime.timedelta"
_TRANSPORT = "it must be one of auto, shm, stdio, nats, inline"
_FLAG = "it must be one of 1, true, yes, on, 0, false, no, off"
_NAME = "it must be 1 to 64 of letters, digits, '.', '_' and '-', not beginning with '.' or '-'"


#: For settings and what is allowed: values that are not.
_REFUSED = {
    ("transport", _TRANSPORT): ("tcp", "", 1),
    ("worker_cmd", "it must be a command as a shell would split it (No closing quotation)"): ("python 'a",),
    ("worker_cmd", "it must be a text"): ("a\0b", ["python", 3]),
    ("worker_name", "it must be a text"): (3,),
    ("worker_name", _NAME): (".hidden", "-x", "../pool", "a pool", "pool\n", "é", "x" * 65),
    ("autostart", _FLAG): ("maybe",),
    ("linger_ms", _MS.format(0, 86_400_000)): (86_400_001,),
    ("runtime_dir", "it must be a text"): ("a\0b",),
    ("arena_mb", _WHOLE.format(1, 65536)): (0, 65537),
    ("exports", "it must be a text"): ("a\0b", b"app"),
    ("executors", _WHOLE.format(0, 512)): (-1, 513, True, 2.0, "two", "", "9" * 5000),
    ("max_queue", _WHOLE.format(0, 65536)): (65537,),
    ("max_wait_ms", _MS.format(0, 600_000)): (600_001,),
    ("queue_target_ms", _MS.format(0, 600_000)): (600_001,),
    ("max_in_flight", _WHOLE.format(1, 65536)): (0, 65537),
    ("grace_ms", _MS.format(0, 600_000)): (-1, timedelta(days=1), 0.5, "soon"),
    ("max_requests", _WHOLE.format(0, 2**31 - 1)): (2**31,),
    ("max_rss_mb", _WHOLE.format(0, 2**31 - 1)): (2**31,),
    ("spin_us", _WHOLE.format(0, 1_000_000)): (1_000_001,),
    ("max_frame_bytes", _WHOLE.format(4176, 2**31 - 1)): (4175,),
    ("start_timeout_ms", _MS.format(1, 600_000)): (0,),
    ("log_json", _FLAG): ("maybe", 2),
    ("log_level", "it must be one of debug, info, warning, error"): ("trace",),
    ("busy_http_status", "it must be one of 429, 503"): (500,),
}


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [(name, value, allowed) for (name, allowed), values in _REFUSED.items() for value in values],
)
def test_a_bad_value_is_named_with_setting_and_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    env = SETTINGS[name][0]
    sources: list[tuple[str, dict[str, Any]]] = [
        (name, {name: value}),
        (f"{env} (Django setting)", {"settings": SimpleNamespace(**{env: value})}),
    ]
    if isinstance(value, str):
        sources.append((env, {"environ": {env: value}}))
    for source, keywords in sources:
        error = raised(ConfigError, load, **keywords)
        assert str(error) == f"{source}: {value!r} is not allowed; {allowed}"


def test_an_override_that_is_no_field_is_refused_with_the_list_of_fields() -> None:
    error = raised(ConfigError, load, executers=2)
    assert str(error) == f"unknown option 'executers'; allowed: {', '.join(SETTINGS)}"


@pytest.mark.parametrize(
    ("name", "given_value", "value"),
    [
        ("transport", " STDIO ", "stdio"),
        ("log_level", "Warning", "warning"),
        ("executors", " 2 ", 2),
        ("grace_ms", timedelta(seconds=1.5), 1500),
        ("grace_ms", 20.0, 20),
        ("log_json", "ON", True),
        ("log_json", "", False),
        ("log_json", "0", False),
        ("exports", Path("dir/molt_exports.json"), "dir/molt_exports.json"),
        ("worker_cmd", ["/a b/python", "-m", "molt_worker"], "'/a b/python' -m molt_worker"),
        ("worker_cmd", (Path("worker"),), "worker"),
    ],
)
def test_friendly_spellings_are_understood(name: str, given_value: Any, value: object) -> None:
    assert getattr(load(**{name: given_value}), name) == value


@each_setting
def test_environ_says_a_changed_setting_in_a_way_that_load_reads_back(name: str) -> None:
    changed = Config(**{"import_path": "/srv"} | {name: SETTINGS[name][3]})
    assert load(changed.environ()) == changed


@given(
    st.builds(
        Config,
        import_path=st.just("/srv"),
        transport=st.sampled_from(["auto", "shm", "stdio", "inline"]),
        exports=st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        executors=st.integers(0, 512),
        spin_us=st.none() | st.integers(0, 1_000_000),
        log_json=st.booleans(),
        log_level=st.sampled_from(["debug", "info", "warning", "error"]),
        busy_http_status=st.sampled_from([429, 503]),
    )
)
def test_environ_round_trip(config: Config) -> None:
    assert load(config.environ()) == config


@pytest.mark.parametrize("name", ["worker_cmd", "worker_name", "exports"])
def test_an_emptied_text_reaches_a_worker_whose_environment_has_another(name: str) -> None:
    inherited = {SETTINGS[name][0]: "inherited"}
    config = load(inherited, import_path="/srv", **{name: ""})
    assert load({**inherited, **config.environ()}) == config


@pytest.mark.parametrize("path", [["/a:b", "/c"], ["/a\\", "/b\\:c:"], ["/new\nline", "/e\\\n"]])
def test_any_folder_s_name_comes_back_from_the_import_path(
    path: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "exists", lambda _: True)
    monkeypatch.setattr(sys, "path", path)
    config = load()
    assert config.path == path
    assert load(config.environ()).path == path
    assert load(config.environ()).identity() == config.identity()


def test_only_the_package_s_own_settings_do_not_count_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = load().identity()
    for row in SETTINGS.values():
        monkeypatch.setenv(row[0], row[2])
    assert load().identity() == before
    monkeypatch.setenv("MOLT_DB", "other")  # a project's
    assert differences(before, load().identity()) == ["environment variable MOLT_DB"]


def test_what_the_process_changes_later_does_not_count_for_a_client_that_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = load()
    before = config.identity()
    monkeypatch.setenv("KMP_INIT_AT_FORK", "FALSE")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert config.identity() == before
    assert "KMP_INIT_AT_FORK" not in config.inherited.environ
    assert differences(before, load().identity()) == ["environment variable KMP_INIT_AT_FORK", "sys.path"]


def test_the_time_zone_that_django_has_set_may_be_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    none = load().identity()
    monkeypatch.setenv("TZ", "Europe/Berlin")
    berlin = load().identity()
    settings = SimpleNamespace(TIME_ZONE="Europe/Berlin")
    monkeypatch.setattr("molt_accel.config._settings_that_are_read", lambda: settings)
    client = load(ignored_env="OTHER")
    assert differences(none, client.identity()) == []
    # In the worker and its executors nothing has set Django up; still they know their own pool.
    monkeypatch.setattr("molt_accel.config._settings_that_are_read", lambda: None)
    ours = load(environ=client.environ())
    monkeypatch.setattr("molt_accel.config._settings_that_are_read", lambda: settings)
    assert ours.identity() == client.identity()
    assert ours.pool_name == client.pool_name
    settings.TIME_ZONE = "UTC"
    assert load().identity() == berlin
    assert differences(none, berlin) == ["environment variable TZ"]


def test_settings_that_fail_do_so_when_a_client_is_made_and_never_in_a_call(tmp_path: Path) -> None:
    (tmp_path / "broken_settings.py").write_text("raise AttributeError('a typo')\n")
    code = """
from molt_accel.config import Config
config = Config.load()
import django.conf
config.identity(), config.pool_name
try:
    Config.load()
except AttributeError as exc:
    print(exc, *exc.__notes__)
"""
    environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "broken_settings", "TZ": "UTC"}
    environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("a typo Raised by Django's settings (DJANGO_SETTINGS_MODULE)")


def test_one_manifest_by_any_path_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = load(exports="molt_exports.json"), load(exports=tmp_path / "molt_exports.json")
    assert one.identity() == other.identity()
    assert one.pool_name == other.pool_name
    assert differences(one.identity(), load(exports="others.json").identity()) == ["exports"]


def test_the_pools_sockets_are_where_they_are_told_to_be_or_in_a_directory_of_this_user() -> None:
    assert load(runtime_dir="/run/app").pool_directory == "/run/app"
    assert load().pool_directory == f"/tmp/molt-{os.getuid()}"


def test_a_named_pool_has_that_name_whatever_else_is_configured() -> None:
    assert load(worker_name="x" * 64).pool_name == "x" * 64
    assert load(worker_name="shop.v2", executors=3).pool_name == "shop.v2"


#: Settings that make no difference to a worker: clients that differ in them share one.
CLIENTS_ONLY = {
    "max_in_flight",
    "transport",
    "autostart",
    "cancel_on_half_close",
    "busy_http_status",
    "overflow",
    "bridge_metrics",
} | {name for name in SETTINGS if name.startswith("nats_")}


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "worker_name"])
def test_a_pool_without_a_name_is_shared_by_clients_that_would_start_the_same_worker(name: str) -> None:
    assert (load(**{name: SETTINGS[name][3]}).pool_name == load().pool_name) is (name in CLIENTS_ONLY)


def test_a_pool_without_a_name_is_its_directory_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {}
    for folder in ("shop", "a b/shop", "ünsafe/../name", "y" * 100):
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(path)
        names[folder] = load().pool_name
        assert load(worker_name=names[folder]).pool_name == names[folder]  # it could be given as one
        assert load().pool_name == names[folder]
    assert len(set(names.values())) == len(names)
    assert names["shop"].startswith("shop-")
    assert names["y" * 100].startswith("y" * 32 + "-")


def test_a_pool_without_a_name_is_its_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    name = load(import_path="/srv").pool_name
    monkeypatch.setattr(sys, "prefix", "/another/environment/of/the/same/python")
    assert load(import_path="/srv").pool_name != name


def test_a_config_is_frozen_and_comparable() -> None:
    config = load(executors=2)
    assert config == load(executors=2) != load(executors=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.executors = 3  # type: ignore[misc]


def test_this_process_s_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLT_WORKER_EXECUTORS", "7")
    assert Config.load(settings=SimpleNamespace()).executors == 7


@pytest.mark.parametrize(
    "url", ["", "a", "a:4222", "nats://u:p%40@a:4222", "tls://a, nats://[::1]:4222", "wss://a"]
)
def test_servers_of_nats(url: str) -> None:
    assert Config.load(nats_url=url).nats_url == url


@pytest.mark.parametrize(
    "url", [",", "nats://", "nats://a:99999", "::::", "http://a:4222", "nats://a,,nats://b", "a:x"]
)
def test_what_is_no_server_of_nats_is_named_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="each nats://HOST:PORT"):
        Config.load(nats_url=url)


def test_the_pool_has_one_executor_a_usable_cpu_unless_told_otherwise() -> None:
    assert load(executors=3).pool_size == 3
    assert load().pool_size == default_executors() == len(os.sched_getaffinity(0))


_DJANGO = """
import os, sys
from molt_accel.config import Config
assert "django" not in sys.modules
print(Config.load().executors)
import django.conf
print(Config.load().executors)
django.conf.settings.configure(MOLT_WORKER_EXECUTORS=5)
print(Config.load().executors)
"""


def test_django_settings_are_read_only_once_django_is_configured() -> None:
    environ = {**os.environ, "MOLT_WORKER_EXECUTORS": "4"}
    environ.pop("DJANGO_SETTINGS_MODULE", None)
    done = subprocess.run(
        [sys.executable, "-c", _DJANGO], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["4", "4", "5"]


def test_the_names_of_pools_are_those_of_the_setting_and_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, names in ((None, ["default"]), (SimpleNamespace(MOLT_POOLS={"a": {}}), ["a", "default"])):
        monkeypatch.setattr("molt_accel.config._django_settings", lambda settings=settings: settings)
        assert pool_names() == names


@pytest.mark.parametrize(
    "address", ["9464", ":9464", "localhost", "localhost:", "localhost:x", "localhost:70000"]
)
def test_an_address_has_a_host_and_a_port(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        load(bridge_metrics=address)
