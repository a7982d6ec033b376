"""Makes crash points work in this process, if MOLT_POINTS_NATIVE names a native core that was built with them.

Python imports this at start wherever its folder is on PYTHONPATH, so it reaches whatever a process starts in turn.
"""

import os

if os.environ.get("MOLT_POINTS_NATIVE"):
    import builtins
    import ctypes
    import re
    import sys
    from collections.abc import Sequence
    from importlib.abc import MetaPathFinder
    from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
    from importlib.util import spec_from_file_location
    from types import CodeType, ModuleType

    _NATIVE = os.environ["MOLT_POINTS_NATIVE"]
    # The same function as in C, so that both count by the same atomics. It keeps the GIL, as a line of Python does.
    _point = ctypes.PyDLL(_NATIVE).molt_point
    _point.argtypes, _point.restype = [ctypes.c_char_p], None
    builtins.__molt_point__ = _point  # type: ignore[attr-defined]

    class _PointLoader(SourceFileLoader):
        """Loads a module with its markers turned into calls, and keeps away from cached bytecode."""

        def get_code(self, fullname: str) -> CodeType:
            path = self.get_filename(fullname)
            source = re.sub(rb"(?m)^( *)# point: (\S+)$", rb'\1__molt_point__(b"\2")', self.get_data(path))
            code: CodeType = self.source_to_code(source, path)
            return code

    class _PointFinder(MetaPathFinder):
        def find_spec(
            self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
        ) -> ModuleSpec | None:
            if fullname == "molt_accel.ipc.shm._native":
                return spec_from_file_location(fullname, _NATIVE)
            if not fullname.startswith(("molt_accel.", "molt_worker.")):
                return None
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and type(spec.loader) is SourceFileLoader:
                spec.loader = _PointLoader(spec.loader.name, spec.loader.path)
            return spec

    sys.meta_path.insert(0, _PointFinder())
