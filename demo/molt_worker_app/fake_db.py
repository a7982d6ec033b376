"""The fake database: a fixed catalogue of items in wire format. The settings say how much a fetch costs.

The rows are made once, at import, from a constant seed, so every process and every run has the same catalogue.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from random import Random
from typing import Final

from molt_worker import current_request

from .settings import FakeDbSettings
from .wire import Item, decode_item, encode_row

ROW_COUNT: Final = 1000
USER_COUNT: Final = 100
SEED: Final = 910

STATUSES: Final = ("active", "draft", "sold_out", "archived")
TAGS: Final = (
    "clearance",
    "eco",
    "fragile",
    "gift",
    "handmade",
    "imported",
    "new",
    "outdoor",
    "premium",
    "vintage",
)

# A status is drawn in these proportions: most items of a shop are on sale.
_STATUS_DRAW: Final = (
    "active",
    "active",
    "active",
    "active",
    "active",
    "draft",
    "sold_out",
    "sold_out",
    "archived",
)
_LOOKS: Final = (
    "amber", "antique", "azure", "bamboo", "bold", "bright", "broad", "carved", "classic", "compact",
    "copper", "cosy", "crimson", "deep", "double", "élan", "folding", "forest", "frosted", "golden",
    "heavy", "indigo", "ivory", "light", "linen", "little", "matte", "modern", "narrow", "nordic",
    "oak", "olive", "painted", "plain", "polished", "quiet", "round", "rustic", "scarlet", "silver",
    "slim", "soft", "solid", "square", "steel", "striped", "tall", "velvet", "walnut", "woven",
)  # fmt: skip
_THINGS: Final = (
    "armchair", "basket", "bench", "blanket", "bookcase", "bottle", "bowl", "box", "cabinet",
    "café table", "candle", "carpet", "chair", "clock", "couch", "cup", "curtain", "cushion", "desk",
    "drawer", "dresser", "frame", "hammock", "jug", "kettle", "lamp", "lantern", "mirror", "mug", "pan",
    "pillow", "plate", "pot", "rack", "rug", "shelf", "sofa", "spoon", "stand", "stool", "table",
    "tray", "trunk", "vase", "wardrobe",
)  # fmt: skip
_FOR: Final = (
    "balcony",
    "bedroom",
    "children",
    "garden",
    "hallway",
    "kitchen",
    "office",
    "studio",
    "terrace",
    "travel",
)
_FIRST_DAY: Final = datetime.fromisoformat("2023-01-01T00:00:00+00:00")

# Rows or steps between two checks. A stop takes effect within a millisecond, and the checks cost little.
_CHECK_EVERY: Final = 64
_CHECK_EVERY_ITERS: Final = 4096


def make_rows(count: int, seed: int) -> list[bytes]:
    """Make `count` wire rows. The same arguments give the same bytes on every Python version.

    Only Random.random() is used: no other method is documented to repeat its sequence across versions.
    """
    rng = Random(seed)
    rows: list[bytes] = []
    for item_id in range(1, count + 1):
        name = f"{_draw(rng, _LOOKS)} {_draw(rng, _LOOKS)} {_draw(rng, _THINGS)} for the {_draw(rng, _FOR)}"
        tags = sorted({_draw(rng, TAGS) for _ in range(int(rng.random() * 4))})
        cents = 100 + int(rng.random() * rng.random() * 99_900)
        created = _FIRST_DAY + timedelta(seconds=int(rng.random() * 63_072_000))
        columns: list[str | None] = [
            str(item_id),
            str(1 + int(rng.random() * USER_COUNT)),
            f"SKU-{int(rng.random() * 1_000_000):06d}",
            name,
            _draw(rng, _STATUS_DRAW),
            f"{cents // 100}.{cents % 100:02d}",
            str(int(rng.random() * 200)),
            None if rng.random() < 0.1 else f"{1 + int(rng.random() * 4)}.{int(rng.random() * 10)}",
            "{" + ",".join(tags) + "}",
            created.isoformat(sep=" "),
        ]
        rows.append(encode_row(columns))
    return rows


def fetch_items(rows: list[bytes], settings: FakeDbSettings) -> list[Item]:
    """Decode every row, with the latency and the cost for each row that the settings give.

    Raises RequestCancelled or RequestTimedOut if the request that runs this is stopped.
    """
    request = current_request()
    request.check()
    if settings.delay_ms:
        time.sleep(settings.delay_ms / 1000)
    items: list[Item] = []
    since_check = 0
    for wire in rows:
        if since_check == _CHECK_EVERY:
            request.check()
            since_check = 0
        since_check += 1
        items.append(decode_item(wire))
        if settings.decode_us_per_row:
            burn_cpu(settings.decode_us_per_row)
    return items


def burn_cpu(microseconds: int) -> None:
    """Use up this much CPU time of the calling thread.

    The thread's CPU clock measures it. By the wall clock, time in which the thread waits for the GIL or for a core
    would count as work, and a crowded process would seem to do the work for nothing.
    """
    end = time.thread_time() + microseconds / 1_000_000
    while time.thread_time() < end:
        pass


def spin_iterations(count: int) -> int:
    """Run `count` steps of an integer recurrence. Returns the last value, so that no compiler drops the loop."""
    request = current_request()
    value = 1
    done = 0
    while done < count:
        request.check()
        for _ in range(min(_CHECK_EVERY_ITERS, count - done)):
            value = (value * 1_103_515_245 + 12_345) & 0x7FFFFFFF
        done += _CHECK_EVERY_ITERS
    return value


def _draw(rng: Random, choices: tuple[str, ...]) -> str:
    return choices[int(rng.random() * len(choices))]


ROWS: Final[list[bytes]] = make_rows(ROW_COUNT, SEED)
