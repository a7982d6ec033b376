"""Imports modules from a build, a folder of native libraries, instead of from their sources."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final


def find_source(name: str) -> Path | None:
    """Return the source file that an import of `name` would run; None if there is none, as in an archive.

    Nothing is imported. `importlib.util.find_spec` would import the packages above the module, and these could import
    modules from source that a build has.
    """
    spec = _find_spec(name)
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        return None
    path = Path(str(spec.origin)).absolute()
    return path if path.is_file() else None


def is_there(name: str) -> bool:
    """Whether there is a module of this name, of whatever kind. Nothing is imported."""
    return name in sys.modules or _find_spec(name) is not None


def _find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Ask all finders except those of builds. Editable installations have finders of their own."""
    path: Sequence[str] | None = None
    if package := name.rpartition(".")[0]:
        above = _find_spec(package)
        path = above.submodule_search_locations if above is not None else None
        if path is None:
            return None
    for finder in sys.meta_path:
        if isinstance(finder, BuildFinder):
            continue
        try:
            spec = finder.find_spec(name, path)
        except KeyError:
            # A namespace package in another one: Python's finder asks for that one, which is not imported.
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            folder = name.rpartition(".")[2]
            spec.submodule_search_locations = [os.path.join(each, folder) for each in path or ()]
        if spec is not None:
            return spec
    return None


class BuildFinder:
    """Finds the modules of a build.

    Args:
        libraries: The build's library files, by the names that they are imported by. One of them is shared by several
            modules. It finds the other files relative to its own, so no file may be moved alone.
    """

    def __init__(self, libraries: Mapping[str, Path]) -> None:
        self.libraries: Final = dict(libraries)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module that is in the build, or None. See `importlib.abc.MetaPathFinder`."""
        del path, target
        library = self.libraries.get(name)
        return importlib.util.spec_from_file_location(name, library) if library else None

    def install(self) -> None:
        """Make this the first finder, and remove finders of earlier builds that share a module with it."""
        for other in installed():
            if not self.libraries.keys().isdisjoint(other.libraries):
                sys.meta_path.remove(other)
        sys.meta_path.insert(0, self)


def installed() -> list[BuildFinder]:
    """Return the finders of builds that this process has installed."""
    return [finder for finder in sys.meta_path if isinstance(finder, BuildFinder)]


def is_compiled(name: str) -> bool:
    """Whether the imported module of this name came from a build.

    The module's file tells: modules of one build import each other without asking a finder.
    """
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and any(str(finder.libraries.get(name)) == file for finder in installed())


def sources() -> list[Path]:
    """The sources of the modules that can come from a build here."""
    found = [find_source(name) for finder in installed() for name in finder.libraries]
    return [path for path in found if path is not None]
