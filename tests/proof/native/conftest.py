"""Fixtures that build the C programs of this directory."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.proof.native import programs

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds a program. Skips the test where there is no compiler or sanitizer for it."""
    if sys.platform != "linux":
        pytest.skip("it is for Linux")

    def build(name: str, sanitizer: str = "plain", core: Path = programs.CORE) -> Path:
        try:
            return programs.build(name, tmp_path, programs.SANITIZERS[sanitizer], core=core)
        except programs.Missing as exc:
            pytest.skip(str(exc))

    return build
