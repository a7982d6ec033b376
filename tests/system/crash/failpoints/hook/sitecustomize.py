"""Makes failpoints work in this process, if MOLT_FAILPOINTS_NATIVE names a native core that was built with them.

Python imports this at start wherever its folder is on PYTHONPATH, so it reaches whatever a process starts in turn.
The packages' sources stay as they are: only the native core is another build, and `failpoint` another function.
"""

import os

if os.environ.get("MOLT_FAILPOINTS_NATIVE"):
    import ctypes
    import sys
    from collections.abc import Sequence
    from importlib.abc import MetaPathFinder
    from importlib.machinery import ModuleSpec
    from importlib.util import spec_from_file_location
    from types import ModuleType

    import molt_accel.ipc.failpoint

    _NATIVE = os.environ["MOLT_FAILPOINTS_NATIVE"]
    # The same function as in C, so that both count by the same atomics. It keeps the GIL, as a line of Python does.
    _pass = ctypes.PyDLL(_NATIVE).molt_failpoint
    _pass.argtypes, _pass.restype = [ctypes.c_char_p], None

    def _failpoint(name: str) -> None:
        _pass(name.encode())

    # Before any other module of the packages is imported: each takes the function by its name.
    molt_accel.ipc.failpoint.failpoint = _failpoint

    class _NativeFinder(MetaPathFinder):
        def find_spec(
            self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
        ) -> ModuleSpec | None:
            if fullname != "molt_accel.ipc.shm._native":
                return None
            return spec_from_file_location(fullname, _NATIVE)

    sys.meta_path.insert(0, _NativeFinder())
