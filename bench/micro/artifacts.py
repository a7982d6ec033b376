"""Writes the results of a run: all files complete, or none."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.micro import markdown, picture


def write(document: Mapping[str, Any], directory: Path, stamp: str) -> list[Path]:
    """Writes `micro_<stamp>.svg`, `.md` and `.json`, and returns them.

    They are made beside their place and renamed into it, the JSON last, so that a JSON file means a whole
    set. Raises OSError when the directory can't be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    places = [directory / f"micro_{stamp}.{kind}" for kind in ("svg", "md", "json")]
    with tempfile.TemporaryDirectory(prefix=".micro-", dir=directory) as scratch:
        made = [Path(scratch) / place.name for place in places]
        picture.draw(document, made[0])
        made[1].write_text(markdown.render(document, places[0].name), encoding="utf-8")
        made[2].write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")
        for file, place in zip(made, places, strict=True):
            os.replace(file, place)
    return places
