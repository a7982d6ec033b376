"""The fake database's wire format: an item as a row of length-prefixed text columns, and back.

A row is laid out as the body of PostgreSQL's DataRow message: a 16-bit column count, then for each column
a 32-bit length (-1 for NULL) and that many bytes of text. All integers are big-endian. A real driver, too, must walk
a row column by column and turn each text into a value, and a list endpoint spends most of its time there.
Source: https://www.postgresql.org/docs/current/protocol-message-formats.html (DataRow).
"""

from __future__ import annotations

import struct
from datetime import datetime
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:  # i64 is a machine integer in compiled code, and an int in Python
    from mypy_extensions import i64

COLUMNS: Final = ("id", "user_id", "sku", "name", "status", "price", "stock", "rating", "tags", "created_at")

_COUNT: Final = struct.Struct(">h")
_LENGTH: Final = struct.Struct(">I")
#: The length -1, read as an unsigned number. No row is long enough for it to be a real length.
_NULL: Final = 0xFFFF_FFFF


@final
class Item:
    """One decoded row. `price_cents` is in cents; `rating_tenths` in tenths, or -1 if the column is NULL."""

    __slots__ = (
        "created",
        "item_id",
        "name",
        "price_cents",
        "rating_tenths",
        "sku",
        "status",
        "stock",
        "tags",
        "user_id",
    )

    def __init__(
        self,
        item_id: int,
        user_id: int,
        sku: str,
        name: str,
        status: str,
        price_cents: int,
        stock: int,
        rating_tenths: int,
        tags: list[str],
        created: datetime,
    ) -> None:
        self.item_id = item_id
        self.user_id = user_id
        self.sku = sku
        self.name = name
        self.status = status
        self.price_cents = price_cents
        self.stock = stock
        self.rating_tenths = rating_tenths
        self.tags = tags
        self.created = created


def encode_row(columns: list[str | None]) -> bytes:
    """Encode column texts (None is NULL) as one wire row."""
    parts = [_COUNT.pack(len(columns))]
    for text in columns:
        if text is None:
            parts.append(_LENGTH.pack(_NULL))
        else:
            data = text.encode("utf-8")
            parts.append(_LENGTH.pack(len(data)))
            parts.append(data)
    return b"".join(parts)


def split_row(wire: bytes) -> list[str | None]:
    """Split one wire row into its column texts (None is NULL).

    Raises ValueError if the row is cut short, has bytes left over, or contains an impossible length.
    """
    end: i64 = len(wire)
    if end < 2:
        raise ValueError(f"row of {end} bytes has no column count")
    count: i64 = wire[0] << 8 | wire[1]
    position: i64 = 2
    columns: list[str | None] = []
    for _ in range(count):
        start: i64 = position + 4
        if start > end:
            raise ValueError(f"row is cut short in the length of column {len(columns)}")
        length: i64 = (
            wire[position] << 24 | wire[position + 1] << 16 | wire[position + 2] << 8 | wire[position + 3]
        )
        if length == _NULL:
            columns.append(None)
            position = start
            continue
        position = start + length
        if position > end:
            raise ValueError(f"column {len(columns)} has the impossible length {length}")
        columns.append(wire[start:position].decode("utf-8"))
    if position != end:
        raise ValueError(f"row has {end - position} bytes left over")
    return columns


def decode_item(wire: bytes) -> Item:
    """Decode one wire row into an Item.

    Raises ValueError if the row is malformed, a required column is NULL, or a text can't be read.
    """
    columns = split_row(wire)
    if len(columns) != len(COLUMNS):
        raise ValueError(f"row has {len(columns)} columns, expected {len(COLUMNS)}")
    rating = columns[7]
    return Item(
        int(_text(columns, 0)),
        int(_text(columns, 1)),
        _text(columns, 2),
        _text(columns, 3),
        _text(columns, 4),
        _fixed_point(_text(columns, 5), 2),
        int(_text(columns, 6)),
        -1 if rating is None else _fixed_point(rating, 1),
        _text_array(_text(columns, 8)),
        datetime.fromisoformat(_text(columns, 9)),
    )


def _text(columns: list[str | None], index: int) -> str:
    text = columns[index]
    if text is None:
        raise ValueError(f"column {COLUMNS[index]} is NULL")
    return text


def _fixed_point(text: str, digits: int) -> int:
    """Read a number with exactly `digits` decimals, as a whole number of its smallest unit."""
    point = len(text) - digits - 1
    if point < 1 or text[point] != ".":
        raise ValueError(f"{text!r} has not {digits} decimals")
    return int(text[:point] + text[point + 1 :])


def _text_array(text: str) -> list[str]:
    """Read a text[] column such as {new,eco}. Its elements are plain words, so none is quoted."""
    if len(text) < 2 or text[0] != "{" or text[-1] != "}":
        raise ValueError(f"{text!r} is not an array")
    return text[1:-1].split(",") if len(text) > 2 else []
