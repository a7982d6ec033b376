"""What is made from the table of a frame's header is up to date, and changes with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from molt_accel.ipc.fields import FIELDS, Of
from molt_accel.ipc.shm.core import generate


@pytest.mark.parametrize(
    ("path", "content"), generate.FILES.items(), ids=lambda each: getattr(each, "name", "")
)
def test_what_is_made_from_the_table_is_up_to_date(path: Path, content: Callable[[], str]) -> None:
    assert path.read_text() == content(), "run python -m molt_accel.ipc.shm.core.generate"


def test_the_files_change_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [content() for content in generate.FILES.values()]
    more = generate.FIELDS[0]._replace(name="another", bits=64, of=Of.RESPONSE)
    monkeypatch.setattr(generate, "FIELDS", (*FIELDS, more))
    struct_text, code = (content() for content in generate.FILES.values())
    assert [struct_text, code] != before
    assert "    uint64_t another;\n" in struct_text
    assert "        uint64_t another\n" in code
    assert code.count("h.another = read(message, at.another") == 1, "in a response, and in nothing else"
    assert code.count(", h.another") == 1
