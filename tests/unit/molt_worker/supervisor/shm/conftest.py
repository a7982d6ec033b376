"""The stage of the tests of a shared-memory pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.shm_testbed import ShmStage


@pytest.fixture
def stage(make_shm_stage: Callable[..., ShmStage]) -> ShmStage:
    return make_shm_stage()
