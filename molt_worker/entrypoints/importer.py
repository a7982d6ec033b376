"""The import machinery of builds: modules that come from a folder of native libraries, ahead of their sources."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final


def find_source(name: str) -> Path | None:
    """The source file that an import of `name` would run; None if there is none, or it isn't Python.

    Imports nothing, unlike `importlib.util.find_spec`, which runs the packages above the module: these must not
    import others of its modules before they can come from a build.
    """
    path: Sequence[str] | None = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        spec = _find_spec(".".join(parts[:depth]), path)
        if spec is None:
            return None
        if depth == len(parts):
            is_python = spec.has_location and str(spec.origin).endswith(".py")
            return Path(str(spec.origin)).absolute() if is_python else None
        path = spec.submodule_search_locations
        if path is None:
            return None
    return None


def _find_spec(name: str, path: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    """What the finders say, those of editable installations too, but for builds."""
    for finder in sys.meta_path:
        if not isinstance(finder, BuildFinder) and (spec := finder.find_spec(name, path)) is not None:
            return spec
    return None


class BuildFinder:
    """Finds modules in a build.

    Args:
        libraries: The files of its libraries by the names that they are imported by. A library for several modules
            is among them; it finds the other files by its own place, so they lie as they were made.
    """

    def __init__(self, libraries: Mapping[str, Path]) -> None:
        self.libraries: Final = dict(libraries)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module that is in the build, or None. See `importlib.abc.MetaPathFinder`."""
        del path, target
        library = self.libraries.get(name)
        return importlib.util.spec_from_file_location(name, library) if library else None

    def install(self) -> None:
        """Be asked first, in place of an earlier build of the same modules."""
        for other in installed():
            if not self.libraries.keys().isdisjoint(other.libraries):
                sys.meta_path.remove(other)
        sys.meta_path.insert(0, self)


def installed() -> list[BuildFinder]:
    """The builds that modules come from in this process."""
    return [finder for finder in sys.meta_path if isinstance(finder, BuildFinder)]


def is_compiled(name: str) -> bool:
    """Whether the imported module of this name came from a build.

    By its file, as modules of a build that import each other don't ask finders.
    """
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and any(str(finder.libraries.get(name)) == file for finder in installed())


def sources() -> list[Path]:
    """The sources of the modules that can come from a build here."""
    found = [find_source(name) for finder in installed() for name in finder.libraries]
    return [path for path in found if path is not None]
