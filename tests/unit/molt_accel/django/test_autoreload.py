"""molt_accel.django.autoreload: which files a server watches for its pools."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core.signals import request_finished
from django.utils.autoreload import StatReloader

from molt_accel import Client
from molt_accel.django import autoreload, source_files


@pytest.fixture
def _receivers() -> Iterator[None]:
    before = list(request_finished.receivers)
    yield
    request_finished.receivers[:] = before
    request_finished.sender_receivers_cache.clear()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources that nobody has imported, in the path of modules."""
    for name in ("near/entries.py", "near/__init__.py", "near/deep/other.py", "near/node_modules/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def below(folder: Path) -> set[str]:
    return {path.removeprefix(f"{folder}/") for path in source_files() if path.startswith(f"{folder}/")}


def test_sources_of_every_pool_are_watched_without_an_import(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SimpleNamespace()
    monkeypatch.setattr("molt_accel.config._django_settings", lambda: settings)
    assert below(elsewhere) == set()
    settings.MOLT_POOLS = {"x": {"EXPORTS": "near.entries"}}
    assert below(elsewhere) == {"near/__init__.py", "near/entries.py", "near/deep/other.py"}
    assert str(Path(__file__)) in source_files()
    manifest = elsewhere / "molt_exports.json"
    rows = [{"name": "a", "target": "near.entries:a"}]
    manifest.write_text(json.dumps({"abi_version": "0.1", "exports": rows}))
    settings.MOLT_POOLS = {"x": {"EXPORTS": str(manifest)}}
    assert below(elsewhere) >= {"molt_exports.json", "near/entries.py"}
    assert not caplog.records
    manifest.write_text("{}")
    assert below(elsewhere) == set()
    [record] = caplog.records
    assert "changes of the code of the pool 'x' are not watched: " in record.getMessage()


@pytest.mark.usefixtures("_receivers")
def test_what_only_a_pool_has_imported_is_watched_once_it_is_used(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "far.py").write_text("from molt_worker import export\n\n@export\ndef entry(payload): ...\n")
    reloader = StatReloader()
    autoreload.watch(reloader)
    assert elsewhere / "far.py" not in reloader.extra_files
    with Client(transport="stdio", exports="far", executors=1, import_path=str(elsewhere)) as client:
        monkeypatch.setattr("molt_accel.client._clients", {"x": client})
        client.call("entry", timeout_ms=60_000)
        watched = reloader.extra_files
        request_finished.send(None)
        assert elsewhere / "far.py" in reloader.extra_files
        assert elsewhere / "far.py" not in watched  # which a thread may be reading
        watched = reloader.extra_files
        request_finished.send(None)
        assert reloader.extra_files is watched  # it is asked once
    request_finished.send(None)
