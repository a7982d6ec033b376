"""Each module of the packages has its unit file, and each unit file its module."""

from pathlib import PurePath

from tests.support import ROOT

#: `__main__` is what the tests of the command line start; `delivery` has protocols only.
WITHOUT = {"__init__", "__main__", "version", "delivery"}
MODULES = {
    path.relative_to(ROOT).with_name(path.stem.lstrip("_"))
    for package in ("molt_accel", "molt_worker")
    for pattern in ("*.py", "*.pyx")
    for path in (ROOT / package).rglob(pattern)
    if path.stem not in WITHOUT
}
UNIT = ROOT / "tests" / "unit"
FILES = {
    path.relative_to(UNIT).with_name(path.stem.removeprefix("test_")) for path in UNIT.rglob("*/test_*.py")
}


def belongs(file: PurePath, module: PurePath) -> bool:
    """Whether a file tests a module. A large module has a file for each subject: test_native_waiting.py."""
    return file.parent == module.parent and f"{file.name}_".startswith(f"{module.name}_")


def test_units_and_modules_mirror_each_other() -> None:
    assert {str(module) for module in MODULES if not any(belongs(file, module) for file in FILES)} == set()
    assert {str(file) for file in FILES if not any(belongs(file, module) for module in MODULES)} == set()
