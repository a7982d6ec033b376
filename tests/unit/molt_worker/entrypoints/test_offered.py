"""molt_worker.entrypoints.offered: the names that exports have, and what is wrong with them, without an import."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from molt_worker.entrypoints.exports import ExportsError
from molt_worker.entrypoints.offered import offered

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules whose import would fail, unless told otherwise."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(*, imported: bool = False, **modules: str) -> None:
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(source + ("" if imported else "\nraise RuntimeError"))
        importlib.invalidate_caches()

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from molt_worker import export\n@export\ndef f(p): ...\ndef g(p): ...", {"f"}),
        ("import molt_worker\n@molt_worker.export(name='a', codec_out='json')\ndef f(p): ...", {"a"}),
        ("import molt_worker as m\n@m.export(codec_in='raw')\ndef f(p): ...", {"f"}),
        ("from molt_worker import export as entry\n@entry\ndef f(p): ...", {"f"}),
        ("from molt_worker import export\n@cached\n@export\ndef f(p): ...", {"f"}),
        (
            "from molt_worker import export\nif x:\n  @export\n  def f(p): ...\nelse:\n  @export\n  def f(p): ...",
            {"f"},
        ),
        ("from molt_worker import export\ntry:\n  import a\nexcept E:\n  @export\n  def f(p): ...", {"f"}),
        ("from molt_worker import export\n@export(name=None)\ndef f(p): ...\ng = f\nA = m.b", {"f"}),
        ("from offered_else import f, plain as g", {"public"}),
        ("from offered_else import f\nfrom offered_else import f as again", {"public"}),
        ("import json\nfrom json import loads", set()),
        ("", set()),
        # What may be, but can't be seen.
        ("from offered_else import *", None),
        ("from no_such_module import f", set()),
        ("from molt_worker import export\n@export(name='a' + 'b')\ndef f(p): ...", None),
        ("from molt_worker import export\n@export(**how)\ndef f(p): ...", None),
        ("from molt_worker import export\nf = export(g)", None),
        ("from molt_worker import export\nmark = export", None),
        ("from molt_worker import export\nfor f in g: export(f)", None),
        ("@mine\ndef f(p): ...", None),
        ("import offered_else\nf = offered_else.f", None),
    ],
)
def test_the_names_of_modules_are_read(source: str, names: set[str] | None, write: Write) -> None:
    write(
        offered_else="from molt_worker import export\n@export(name='public')\ndef f(p): ...\ndef plain(p): ...",
        offered_some=source,
    )
    assert offered("offered_some") == names
    assert "offered_some" not in sys.modules


def test_modules_that_import_each_other_are_read_once(write: Write) -> None:
    write(
        offered_some="from offered_else import f\nfrom molt_worker import export\n@export\ndef g(p): ...",
        offered_else="from offered_some import g\nfrom molt_worker import export\n@export\ndef f(p): ...",
    )
    assert offered("offered_some") == {"f", "g"}


def test_what_is_imported_is_looked_at(write: Write) -> None:
    source = "from molt_worker import export\ndef g(p): ...\nf = export(name='made')(g)\nh = f"
    write(offered_some=source, imported=True)
    assert offered("offered_some") is None
    importlib.import_module("offered_some")
    assert offered("offered_some") == {"made"}


@pytest.mark.parametrize(
    ("sources", "text"),
    [
        ({}, "offered_some: there is no module of this name"),
        ({"offered_some": "def"}, "offered_some: can't be read: SyntaxError"),
        (
            {
                "offered_some": "from molt_worker import export\n@export\ndef f(p): ...",
                "offered_else": "from molt_worker import export\n@export(name='f')\ndef g(p): ...",
            },
            "the name 'f' is exported twice",
        ),
    ],
)
def test_what_can_t_be_served_is_said(sources: dict[str, str], text: str, write: Write) -> None:
    write(**sources)
    with pytest.raises(ExportsError, match=text):
        offered("offered_some,offered_else" if "offered_else" in sources else "offered_some")


def test_an_entry_may_not_stand_twice_in_one_module(write: Write) -> None:
    source = "from molt_worker import export\n@export\ndef f(p): ...\n@export(name='f')\ndef g(p): ..."
    write(offered_some=source)
    with pytest.raises(ExportsError, match="the name 'f' is exported twice"):
        offered("offered_some")


def test_the_targets_of_a_manifest_are_looked_for(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "exports.json"

    def of(target: str) -> set[str] | None:
        path.write_text(json.dumps({"abi_version": "0.1", "exports": [{"name": "e", "target": target}]}))
        return offered(str(path))

    write(offered_some="def f(p): ...\nclass A: ...\nB = 1\nimport os.path", offered_else="from x import *")
    for target in (
        "offered_some:f",
        "offered_some:A.g",
        "offered_some:B",
        "offered_some:os",
        "offered_else:f",
    ):
        assert of(target) == {"e"}
    with pytest.raises(ExportsError, match=r"exports\[0\] \(e\): offered_some has no g"):
        of("offered_some:g")
    with pytest.raises(ExportsError, match=r"exports\[0\] \(e\): there is no module offered_none"):
        of("offered_none:g")


def test_the_packaged_exports_are_in_order() -> None:
    assert offered("") == {"health", "echo"}
    assert offered("math") == set()
