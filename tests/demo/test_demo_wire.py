"""The wire format: rows come back as they went in, and a broken row is refused."""

import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.molt_worker_app import fake_db
from demo.molt_worker_app.wire import COLUMNS, decode_item, encode_row, split_row

SOUND: list[str | None] = [
    "7", "3", "SKU-1", "café table", "active", "19.99", "12", None, "{eco,new}", "2024-02-29 01:02:03+00:00",
]  # fmt: skip


@given(st.lists(st.none() | st.text(), max_size=20))
def test_columns_come_back(columns: list[str | None]) -> None:
    assert split_row(encode_row(columns)) == columns


def test_layout_is_that_of_a_data_row() -> None:
    assert encode_row(["ab", None, ""]) == b"\x00\x03\x00\x00\x00\x02ab\xff\xff\xff\xff\x00\x00\x00\x00"


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_are_refused(wire: bytes) -> None:
    try:
        columns = split_row(wire)
    except ValueError:
        return
    assert encode_row(columns) == wire


@given(st.data())
def test_a_row_cut_anywhere_is_refused(data: st.DataObject) -> None:
    wire = encode_row(SOUND)
    with pytest.raises(ValueError):
        split_row(wire[: data.draw(st.integers(0, len(wire) - 1))])
    with pytest.raises(ValueError, match="left over"):
        split_row(wire + b"\0")


def test_an_item_is_decoded() -> None:
    item = decode_item(encode_row(SOUND))
    assert (item.item_id, item.user_id, item.sku, item.name) == (7, 3, "SKU-1", "café table")
    assert (item.status, item.price_cents, item.stock, item.rating_tenths) == ("active", 1999, 12, -1)
    assert (item.tags, item.created) == (["eco", "new"], datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC))


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("id", None, "column id is NULL"), ("id", "x", "invalid literal"),
        ("price", "19.9", "'19.9' has not 2 decimals"), ("price", ".99", "'.99' has not 2 decimals"),
        ("rating", "45", "'45' has not 1 decimals"), ("tags", "eco", "'eco' is not an array"),
        ("created_at", "today", "Invalid isoformat"),
    ],
)  # fmt: skip
def test_a_bad_column_is_refused(column: str, text: str | None, message: str) -> None:
    columns = list(SOUND)
    columns[COLUMNS.index(column)] = text
    with pytest.raises(ValueError, match=message):
        decode_item(encode_row(columns))


def test_a_row_of_other_width_is_refused() -> None:
    with pytest.raises(ValueError, match="row has 9 columns, expected 10"):
        decode_item(encode_row(SOUND[:-1]))


def test_the_catalogue_is_the_same_everywhere() -> None:
    assert len(fake_db.ROWS) == fake_db.ROW_COUNT == 1000
    # The digest was taken once: another value means that every golden answer below it has changed too.
    digest = "23696aacaa623441d26a0ff3e76a4b9ee3e2480e1fae240e5e916a9bf6b6d7f6"
    assert hashlib.sha256(b"".join(fake_db.ROWS)).hexdigest() == digest
    assert fake_db.make_rows(1000, fake_db.SEED) == fake_db.ROWS
    assert fake_db.make_rows(5, 1) != fake_db.make_rows(5, 2)
