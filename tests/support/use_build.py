"""A pytest plugin: the demo's handler cores come from their build in `MOLT_BUILD_DIR`, in this process."""

import os
import sys

from molt_worker.compile import record as compiled
from molt_worker.entrypoints.importer import installed, is_compiled

compiled.enable("demo/molt_worker_app/molt_exports.json", "require", os.environ["MOLT_BUILD_DIR"])


def pytest_unconfigure() -> None:
    """What has run was native code."""
    imported = [name for finder in installed() for name in finder.libraries if name in sys.modules]
    assert imported
    assert all(map(is_compiled, imported))
