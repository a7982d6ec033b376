"""Makes a request body for the data path: a table of orders with a filter, a grouping and aggregates.

    python -m demo.molt_worker_app.make_table --rows 10000 > table.json

The same arguments give the same bytes on every machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from random import Random

DEFAULT_ROWS = 10_000
DEFAULT_SEED = 910

_REGIONS = ("centre", "east", "north", "south", "west")
_CHANNELS = ("phone", "shop", "web", "web", "web")


def make_table(rows: int, seed: int = DEFAULT_SEED) -> dict[str, object]:
    """Return a body with this many rows, as an object that JSON can encode."""
    rng = Random(seed)  # only random() is used: no other method repeats its sequence on every Python version
    table: list[list[object]] = []
    for order in range(1, rows + 1):
        region = _REGIONS[int(rng.random() * len(_REGIONS))] if rng.random() < 0.98 else None
        channel = _CHANNELS[int(rng.random() * len(_CHANNELS))]
        units = 1 + int(rng.random() * rng.random() * 40)
        price = (100 + int(rng.random() * 49_900)) / 100
        discount = int(rng.random() * 30) / 100 if rng.random() < 0.3 else None
        table.append([order, region, channel, units, price, discount, rng.random() < 0.05])
    return {
        "columns": ["order", "region", "channel", "units", "price", "discount", "returned"],
        "rows": table,
        "where": [
            {"column": "returned", "op": "=", "value": False},
            {"column": "units", "op": ">=", "value": 2},
        ],
        "group_by": ["region", "channel"],
        "aggregates": [
            {"op": "count"},
            {"op": "count", "column": "discount"},
            {"op": "sum", "column": "units"},
            {"op": "min", "column": "price"},
            {"op": "max", "column": "price"},
            {"op": "mean", "column": "price"},
            {"op": "p95", "column": "price"},
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the body to standard output. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.molt_worker_app.make_table", description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=DEFAULT_ROWS, help=f"rows of the table (default {DEFAULT_ROWS})"
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help=f"seed of the cells (default {DEFAULT_SEED})"
    )
    options = parser.parse_args(arguments)
    if options.rows < 0:
        parser.error(f"--rows: {options.rows} is not allowed; allowed: 0 or more")
    json.dump(make_table(options.rows, options.seed), sys.stdout, separators=(",", ":"))
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
