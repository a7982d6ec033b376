"""The type stub of the native core says what the module has."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from molt_accel.ipc.shm import _native
from tests.support.handover import arena_in, channel_of, core, new_arena, new_memory, slot_of


def test_its_names_parameters_defaults_and_classes_are_the_module_s(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text("[mypy]\nfollow_imports = skip\nignore_missing_imports = true\n")
    of_cython = ("__reduce_cython__", "__setstate_cython__", "__test__")
    (tmp_path / "allowed").write_text("".join(f".*\\.{name}\n" for name in of_cython))
    command = [
        sys.executable, "-m", "mypy.stubtest", _native.__name__, "--concise", "--ignore-disjoint-bases",
    ]  # fmt: skip
    command += ["--mypy-config-file", str(tmp_path / "mypy.ini"), "--allowlist", str(tmp_path / "allowed")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def view() -> Any:
    memory = new_memory()
    arena_in(memory)
    return core.ArenaView(memory)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (view, "channels slots ring_bytes in_use"),
        (new_arena, "channels slots ring_bytes"),
        (lambda: channel_of(new_arena()), "index generation"),
        (lambda: slot_of(new_arena()), "channel serial word"),
    ],
    ids=["ArenaView", "Arena", "Channel", "Slot"],
)
def test_what_is_a_property_in_it_can_t_be_set(make: Any, names: str) -> None:
    instance = make()
    for name in names.split():
        value = getattr(instance, name)
        assert isinstance(value, int)
        with pytest.raises(AttributeError):
            setattr(instance, name, value)
