"""Writes the results of a benchmark: all files complete, or none."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness import html, markdown, picture


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The files that were written."""

    json: Path
    markdown: Path
    picture: Path
    html: Path


def write(document: Mapping[str, Any], directory: Path, stamp: str) -> Artifacts:
    """Writes JSON, markdown, picture and HTML as `demo_k6_<stamp>.*`.

    They are made beside their place and renamed into it, the JSON last, so that a JSON file means a whole
    set. Raises OSError when the directory can't be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = Artifacts(
        directory / f"demo_k6_{stamp}.json",
        directory / f"demo_k6_{stamp}.md",
        directory / f"demo_k6_{stamp}.svg",
        directory / f"demo_k6_{stamp}.html",
    )
    with tempfile.TemporaryDirectory(prefix=".demo_k6-", dir=directory) as scratch:
        made = Path(scratch)
        picture.draw(document, made / "svg")
        (made / "md").write_text(markdown.render(document, names.picture.name), encoding="utf-8")
        (made / "html").write_text(html.render(document), encoding="utf-8")
        (made / "json").write_text(
            json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        places = (names.picture, names.html, names.markdown, names.json)
        for kind, place in zip(("svg", "html", "md", "json"), places, strict=True):
            os.replace(made / kind, place)
    return names
