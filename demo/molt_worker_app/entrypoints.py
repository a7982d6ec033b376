"""The demo's entrypoints. They are found by this module's name, because this package is an app of the project.

The handler cores know nothing of that: this module names those that may be called, and the codecs.
"""

from __future__ import annotations

from typing import Final

from molt_worker import export
from molt_worker.entrypoints.builtin import health

from .core import list_items
from .cost import spend, spend_limited, spend_low
from .table import data_summary

ENTRYPOINTS: Final = [
    *(export(codec_out="json")(core) for core in (list_items, spend, health)),
    export(codec_out="json", max_concurrency=1)(spend_limited),
    export(codec_out="json", priority="low")(spend_low),
    export(codec_in="json", codec_out="json")(data_summary),
]
