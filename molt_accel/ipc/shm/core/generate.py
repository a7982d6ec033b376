"""Makes the C struct of a frame's header, and the Cython code that fills and reads it, from the table of fields.

Run `python -m molt_accel.ipc.shm.core.generate` after a change of the table; a test compares the files with it.
They are kept with the sources, so that nothing but a compiler and Cython is needed to build them.
"""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path
from typing import Final

from molt_accel.ipc.fields import FIELDS, Of

CORE: Final = Path(__file__).resolve().parent
_NOTE: Final = "Made by generate.py from molt_accel/ipc/fields.py: change the table, not this."
#: By message: its fields, and what its class takes before those that are plain numbers. The caller of the code below
#: has made an enumeration's member of a byte, and text of the entry.
_MESSAGES: Final = {
    "request": (Of.REQUEST, "h.request_id, entry, payload, codec"),
    "response": (Of.RESPONSE, "h.request_id, status, payload, codec"),
}
#: By message: the fields that stand behind the header.
_LONG_FIELDS: Final = {"request": ("entry", "payload"), "response": ("payload",)}


def _declarations(indent: str, end: str) -> str:
    text = ""
    for bits, fields in itertools.groupby(FIELDS, key=lambda field: field.bits):
        for names in textwrap.wrap(", ".join(field.name for field in fields), 80):
            text += f"{indent}uint{bits}_t {names.rstrip(',')}{end}\n"
    return text


def c_header() -> str:
    """core/frame_fields.h: the header as a struct."""
    return (
        f"/* {_NOTE} */\n#pragma once\n\n#include <stdint.h>\n\n"
        f"enum {{ MOLT_HEADER_BYTES = {sum(field.bits for field in FIELDS) // 8} }};\n\n"
        f"typedef struct __attribute__((packed)) {{\n{_declarations(' ' * 4, ';')}}} molt_frame;\n"
    )


def cython() -> str:
    """fields.pxi: the struct as Cython sees it, and how a message is written to one and made of one."""
    text = f'# {_NOTE}\n\ncdef extern from "frame_fields.h" nogil:\n    ctypedef struct molt_frame:\n'
    text += _declarations(" " * 8, "")
    for name, (kind, before) in _MESSAGES.items():
        own = [field.name for field in FIELDS if field.of & kind]
        kept = [*_LONG_FIELDS[name], *own]
        text += f"\n\n# Where {name}s keep their fields; `{name}_nowhere` is for objects of other classes.\n"
        text += f"cdef struct {name}_places:\n"
        for names in textwrap.wrap(", ".join(kept), 80):
            text += f"    Py_ssize_t {names.rstrip(',')}\n"
        text += f"\n\ncdef {name}_places {name}_at, {name}_nowhere\n"
        text += "".join(f'{name}_at.{field} = place_of(_{name.title()}, "{field}")\n' for field in kept)
        text += f"\n\ncdef inline const {name}_places *places_of_{name}(object message):\n"
        text += f"    return &{name}_at if type(message) is _{name.title()} else &{name}_nowhere\n"
        text += (
            f"\n\ncdef int fill_{name}(molt_frame *h, object message, const {name}_places *at) except -1:\n"
        )
        text += "".join(f'    h.{field} = read(message, at.{field}, "{field}")\n' for field in own)
        first = before.split(", ")
        given = [argument for argument in first if not argument.startswith("h.")]
        plain = [f"h.{field}" for field in own if field not in given and f"h.{field}" not in first]
        text += f"\n\ncdef object {name}_of(const molt_frame *h, {', '.join(given)}):\n"
        text += f"    return _{name.title()}(\n"
        text += textwrap.indent(textwrap.fill(f"{before}, {', '.join(plain)}", 100), " " * 8) + "\n    )\n"
    return text


FILES: Final = {CORE / "frame_fields.h": c_header, CORE.parent / "binding" / "fields.pxi": cython}

if __name__ == "__main__":
    for path, content in FILES.items():
        path.write_text(content(), encoding="utf-8")
