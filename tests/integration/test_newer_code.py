"""A client that attaches to a shared pool after its code was changed never gets an answer of older code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from molt_accel import MoltStartFailed
from tests.support import versioned
from tests.support.driver import MakeModule
from tests.support.peer import MakePeer, Peer
from tests.support.pools import Share
from tests.support.processes import wait_for_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")


#: Long enough for a newcomer to come while it is imported.
IMPORT_S = 0.3


def source(version: int, extra: str = "", import_s: float = IMPORT_S) -> str:
    return versioned.source(version, extra, import_s)


@pytest.fixture
def old(pool_log: Path, make_peer: MakePeer, make_module: MakeModule) -> Peer:
    """A process that holds a pool of version 1."""
    make_module("versioned", source(1))
    peer = make_peer(exports="versioned")
    assert peer.call("version") == 1
    return peer


def test_a_newcomer_gets_newer_code_from_its_first_call_on(
    make_peer: MakePeer, make_module: MakeModule, old: Peer, tmp_path: Path
) -> None:
    held = old.begin("hold", str(tmp_path / "gate"))  # its executor runs older code for as long as this runs
    wait_for_file(tmp_path / "gate.running")
    make_module("versioned", source(2, "\n@export\ndef brand_new(payload): return 'new'\n"))
    new = make_peer(exports="versioned")
    assert new.call("brand_new") == "new"
    assert [new.call("version") for _ in range(20)] == [2] * 20
    assert old.call("version") == 2
    (tmp_path / "gate").touch()
    assert held.result(60) == 1
    assert new.do("ping")["pid"] == old.do("ping")["pid"]


def test_a_newcomer_that_comes_during_the_reload_waits_for_it_too(
    make_peer: MakePeer, make_module: MakeModule, old: Peer
) -> None:
    make_module("versioned", source(2, import_s=1))
    newcomers = [make_peer(exports="versioned") for _ in range(3)]
    calls = [peer.begin("version") for peer in newcomers]
    assert [call.result(60) for call in calls] == [2, 2, 2]


def test_newer_code_that_can_t_be_imported_is_the_newcomers_error_only(
    share: Share, make_module: MakeModule, old: Peer
) -> None:
    make_module("versioned", "def broken(:")
    with pytest.raises(MoltStartFailed) as caught:
        share(exports="versioned").call("version")
    assert caught.value.detail.startswith(
        "the pool 'pool' can't load the code that was changed: versioned: can't import versioned: SyntaxError: "
    )
    assert old.call("version") == 1
    make_module("versioned", source(2))
    assert share(exports="versioned").call("version") == 2
    assert old.call("version") == 2


def test_a_module_that_only_entrypoints_import_and_one_that_was_missing_are_code_too(
    share: Share, make_peer: MakePeer, make_module: MakeModule
) -> None:
    make_module("pricing", "VAT = 19")
    make_module(
        "priced",
        "from molt_worker import export\n"
        "try:\n    from local import RATE\nexcept ImportError:\n    RATE = 1\n\n"
        "@export\ndef price(payload):\n    from pricing import VAT\n    return [VAT, RATE]\n",
    )
    old = make_peer(exports="priced")
    assert old.call("price") == [19, 1]
    make_module("pricing", "VAT = 7")
    assert share(exports="priced").call("price") == [7, 1]
    make_module("local", "RATE = 5")
    assert share(exports="priced").call("price") == [7, 5]
    assert old.call("price") == [7, 5]


def test_a_manifest_that_was_changed_is_newer_code_too(
    share: Share, make_peer: MakePeer, make_module: MakeModule, tmp_path: Path
) -> None:
    def offer(*names: str) -> None:
        rows = [{"name": name, "target": "versioned:version"} for name in names]
        manifest.write_text(json.dumps({"abi_version": "0.1", "exports": rows}))

    manifest = tmp_path / "molt_exports.json"
    make_module("versioned", source(1))
    offer("one")
    old = make_peer(exports=str(manifest))
    assert old.call("one") == 1
    offer("one", "two")
    assert share(exports=str(manifest)).call("two") == 1
    manifest.write_text("{}")
    with pytest.raises(MoltStartFailed) as caught:
        share(exports=str(manifest)).call("two")
    assert "can't load the code that was changed" in caught.value.detail
    assert "abi_version: None is not allowed" in caught.value.detail
    assert old.call("one") == 1
