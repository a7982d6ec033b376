"""Mutants that no test needs to notice, each with the reason: survivors.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

from tests.proof.mutation.modules import ROOT

SURVIVORS: Final = Path(__file__).with_name("survivors.toml")

Key = tuple[str, str, str, str]


def accepted() -> dict[Key, str]:
    """The reasons by `Mutant.key`."""
    rows = tomllib.loads(SURVIVORS.read_text()).get("survivor", [])
    return {(row["file"], row["where"], row["before"], row["after"]): row["reason"] for row in rows}


def outdated() -> list[Key]:
    """Accepted survivors of code that is no longer there."""
    return [
        key
        for key in accepted()
        if key[2] not in " ".join(line.strip() for line in (ROOT / key[0]).read_text().splitlines())
    ]
