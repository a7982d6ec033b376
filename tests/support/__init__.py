"""What tests share: helpers, fakes, fixtures (`pytest_plugins` in tests/conftest.py), and programs that tests run."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXPORTS = "tests.support.entrypoints"
#: The transports that run a worker.
TRANSPORTS = ["stdio", "shm"] if sys.platform == "linux" else ["stdio"]
