"""The documents as tests read them: their fenced blocks, and the files that their readers write."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from tests.support import ROOT

DOCS = ROOT / "docs"
#: The settings of the tutorial's project.
SETTINGS = "chains.settings"

FENCE = re.compile(
    r"^(?:(?P<end>At the end of )?`(?P<file>[\w./-]+)`:\n\n)?"
    r"(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.S | re.M,
)


class Block(NamedTuple):
    """A fenced block. Above it stands "`name`:" if it is a file, "At the end of `name`:" if it is appended to one."""

    file: str | None
    appends: bool
    language: str
    text: str

    def write(self, folder: Path) -> None:
        """Do to the file what the page has its reader do."""
        assert self.file is not None
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if self.appends else "w", encoding="utf-8") as file:
            file.write(self.text)


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    return [
        Block(match["file"], bool(match["end"]), match["language"], textwrap.dedent(match["text"]))
        for match in FENCE.finditer(text)
    ]


def write_files(page: str, folder: Path) -> None:
    """The files that a page has its reader write."""
    for block in blocks(read(page)):
        if block.file:
            block.write(folder)


def startproject() -> list[str]:
    """The arguments of django-admin with which the tutorial begins."""
    (line,) = re.findall(r"^django-admin (startproject .*)$", read("tutorial.md"), re.M)
    return str(line).split()
