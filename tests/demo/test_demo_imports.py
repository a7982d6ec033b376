"""What the handler cores may import, and that the manifest names functions that exist."""

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

import demo.molt_worker_app as app

FOLDER = Path(app.__file__).parent
#: msgspec comes with the worker; mypy_extensions is for type checkers only.
OTHERS = ("molt_worker", "msgspec", "mypy_extensions")
MODULES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_core_module_imports_only_the_standard_library_its_neighbours_and_the_worker(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            assert top in sys.stdlib_module_names or top in OTHERS, f"{path.name} imports {name}"


#: What the manifest says beside names and codecs.
PRESSURE = {"spend_limited": {"max_concurrency": 1}, "spend_low": {"priority": "low"}}


def test_the_manifest_names_what_there_is() -> None:
    manifest = json.loads((FOLDER / "molt_exports.json").read_text(encoding="utf-8"))
    assert manifest["abi_version"] == "0.1"
    names = {}
    for entry in manifest["exports"]:
        module, _, function = entry["target"].partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        names[entry["name"]] = (entry["codec_in"], entry["codec_out"])
        pressure = {key: entry[key] for key in ("max_concurrency", "priority") if key in entry}
        assert pressure == PRESSURE.get(entry["name"], {})
    assert names == {
        "list_items": ("msgpack", "json"),
        "data_summary": ("json", "json"),
        "spend": ("msgpack", "json"),
        "spend_limited": ("msgpack", "json"),
        "spend_low": ("msgpack", "json"),
        "health": ("msgpack", "json"),
    }
