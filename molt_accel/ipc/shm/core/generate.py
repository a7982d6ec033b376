"""Writes what the native core is told of a frame's header from the one table of it, `molt_accel.ipc.fields`.

    python -m molt_accel.ipc.shm.core.generate

The two files are kept with the sources, so that nothing but a compiler and Cython is needed to build them; a test holds
them against the table.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

from molt_accel.ipc.fields import FIELDS, Of

CORE: Final = Path(__file__).resolve().parent
_NOTE: Final = "Made by generate.py from molt_accel/ipc/fields.py: change the table, not this."
#: What each message's class takes before the fields that are plain numbers. The caller of the code below has made an
#: enumeration's member of a byte, and text of the entry.
_MADE: Final = {"frame": (Of.BOTH, "kind, h.request_id, entry, payload, codec, status")}
_FILLED: Final = {"request": Of.REQUEST, "response": Of.RESPONSE}


def c_header() -> str:
    """core/frame_fields.h: the header as a struct."""
    fields = "".join(f"    uint{field.bits}_t {field.name};\n" for field in FIELDS)
    return (
        f"/* {_NOTE} */\n#ifndef MOLT_FRAME_FIELDS_H\n#define MOLT_FRAME_FIELDS_H\n\n#include <stdint.h>\n\n"
        f"typedef struct __attribute__((packed)) {{\n{fields}}} molt_frame;\n\n#endif\n"
    )


def cython() -> str:
    """_fields.pxi: the struct as Cython sees it, and how a message is written to one and made of one."""
    text = f'# {_NOTE}\n\ncdef extern from "frame_fields.h" nogil:\n    ctypedef struct molt_frame:\n'
    text += "".join(f"        uint{field.bits}_t {field.name}\n" for field in FIELDS)
    for name, kind in _FILLED.items():
        text += f"\n\ncdef int fill_{name}(molt_frame *h, object message) except -1:\n"
        text += "".join(f"    h.{field.name} = message.{field.name}\n" for field in FIELDS if field.of & kind)
        text += "    return 0\n"
    for name, (kind, before) in _MADE.items():
        first = before.split(", ")
        given = [argument for argument in first if not argument.startswith("h.")]
        taken = {argument.removeprefix("h.") for argument in first}
        plain = [f"h.{field.name}" for field in FIELDS if field.of & kind and field.name not in taken]
        text += f"\n\ncdef object {name}_of(const molt_frame *h, {', '.join(given)}):\n"
        text += f"    return _{name.title()}(\n"
        text += textwrap.indent(textwrap.fill(f"{before}, {', '.join(plain)}", 100), " " * 8) + "\n    )\n"
    return text


FILES: Final = {CORE / "frame_fields.h": c_header, CORE.parent / "_fields.pxi": cython}

if __name__ == "__main__":
    for path, content in FILES.items():
        path.write_text(content(), encoding="utf-8")
