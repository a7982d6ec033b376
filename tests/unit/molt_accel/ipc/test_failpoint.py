"""Failpoints of a normal build."""

import sys
from pathlib import Path

import pytest

from molt_accel.ipc.failpoint import failpoint


def test_a_point_in_python_does_nothing_without_a_test_build() -> None:
    assert failpoint("supervisor.killed") is None  # type: ignore[func-returns-value]


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory is for Linux")
def test_the_core_has_no_points_unless_it_is_built_for_them() -> None:
    from molt_accel.ipc.shm import _native

    assert b"molt_failpoint" not in Path(_native.__file__).read_bytes()
