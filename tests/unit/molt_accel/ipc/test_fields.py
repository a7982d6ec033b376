"""The one table of a frame's header: its bytes, and that what is made from it is up to date."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from molt_accel.ipc.fields import FIELDS, FORMAT, Of
from molt_accel.ipc.shm.core import generate


def test_the_header_has_eighty_bytes_and_each_field_its_own() -> None:
    assert (struct.calcsize(FORMAT), FORMAT) == (80, "<BBBBHHQIIQQIIIIIIIIII")
    assert len({field.name for field in FIELDS}) == len(FIELDS) == 21
    at = 0
    for field in FIELDS:
        assert at % field.bits == 0, "a field that is not aligned"
        at += field.bits


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
    assert code.count("h.another = message.another") == 1, "in a response, and in nothing else"
    assert code.count(", h.another") == 1
