"""What a pool refuses under load, whom it serves first, and how many it runs, over both transports."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from molt_accel import Client, MoltBusy, MoltError, MoltTimeout
from tests.support import TRANSPORTS
from tests.support.errors import raised
from tests.support.processes import wait_until

PATIENCE_MS = 60_000
