"""Typed entrypoints that are native code: their types are found, and none of what they say gets lost."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from molt_accel.ipc.messages import Codec
from molt_worker import InvalidInput
from molt_worker.entrypoints import exports
from molt_worker.entrypoints.exports import Export, ExportsError
from molt_worker.entrypoints.importer import BuildFinder
from tests.support.builds import Built

pytestmark = pytest.mark.usefixtures("import_state")
Resolve = Callable[[str], Export]


@pytest.fixture
def native(built: Built) -> None:
    """The project's modules come from its build."""
    sys.path.insert(0, str(built.folder))
    importlib.invalidate_caches()
    folder = built.manifest.parent / ".molt-build" / built.record.key
    BuildFinder({name: folder / library for name, library in built.record.libraries.items()}).install()


@pytest.fixture
def resolve(native: None, tmp_path: Path) -> Resolve:
    """Resolves a target, which must be compiled then."""

    def resolve(target: str) -> Export:
        path = tmp_path / "one.json"
        rows = [{"name": "one", "target": target}]
        path.write_text(json.dumps({"abi_version": "0.1", "exports": rows}))
        (found,) = exports.resolve(str(path))
        assert found.compiled
        return found

    return resolve


@pytest.mark.parametrize("path", ["double", "renamed", "till.double"])
def test_types_are_read_from_the_source_under_whatever_name(resolve: Resolve, path: str) -> None:
    found = resolve(f"shop.core:{path}")
    assert found.function is not None
    assert found.decode is not None
    assert found.encode is not None
    assert found.encode(found.function(found.decode(b"\x81\xa5cents\x15"))) == b"\x81\xa5cents\x2a"
    with pytest.raises(InvalidInput, match=r"Expected `int` >= 0 - at `\$\.cents`"):
        found.decode(b"\x81\xa5cents\xff")


@pytest.mark.parametrize("path", ["total", "refuse", "pid"])
def test_plain_annotations_stay_with_the_codec(resolve: Resolve, path: str) -> None:
    found = resolve(f"shop.core:{path}")
    assert (found.decode, found.encode) == (None, None)


def test_a_compiled_function_can_be_marked(native: None) -> None:
    (found,) = exports.resolve("shop.core")
    assert found == Export("marked", "shop.core:doubles", Codec.MSGPACK, Codec.JSON)
    assert found.compiled
    assert found.function is not None
    assert found.decode is not None
    assert len(found.function(found.decode(b"\x91\x81\xa5cents\x15"))) == 1


def test_a_compiled_class_that_has_lost_what_its_fields_may_be_is_refused(resolve: Resolve) -> None:
    with pytest.raises(
        ExportsError, match=r"shop\.core:count: the parameter Coins can't be decoded: Coins is in a"
    ):
        resolve("shop.core:count")
