"""The name of a pool: one worker has it at a time."""

import os
import signal
from pathlib import Path
from typing import Any

from molt_accel.errors import AlreadyServed
from molt_worker.supervisor.shm import supervisor as shm_supervisor
from molt_worker.supervisor.shm.name import Name
from tests.support.errors import raised
from tests.support.processes import exit_code, fork, wait_for_file
from tests.support.shm_testbed import Caller, MakeShmStage, ShmStage


def test_a_name_has_one_worker(stage: ShmStage, make_shm_stage: MakeShmStage) -> None:
    before = set(os.listdir("/proc/self/fd"))
    error = raised(AlreadyServed, shm_supervisor.ShmSupervisor, stage.config, stage.sink, linger=False)
    assert error.detail == "another worker serves the pool 'pool' already"
    # The other one's event loop has a descriptor of its own where the system's poll is one.
    assert set(os.listdir("/proc/self/fd")) == before
    assert Caller(make_shm_stage(worker_name="other"), 1).channels == [0]


def test_what_a_killed_worker_left_is_replaced(make_shm_stage: MakeShmStage, tmp_path: Any) -> None:
    marker = tmp_path / "marker"

    def serve() -> None:
        make_shm_stage()
        marker.write_text("here")
        signal.pause()

    pid = fork(serve)
    wait_for_file(marker)
    os.kill(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL
    stage = make_shm_stage()
    assert os.path.exists(stage.supervisor._name.path)
    assert Caller(stage, 1).channels == [0]


def test_a_worker_that_leaves_does_not_take_its_successor_s_socket_along(
    stage: ShmStage, make_shm_stage: MakeShmStage
) -> None:
    """Somebody tidied up the directory, so that there are two workers; the later one is found."""
    for name in os.listdir(stage.config.pool_directory):
        os.unlink(os.path.join(stage.config.pool_directory, name))
    successor = make_shm_stage()
    stage.supervisor._let_go_of_name()
    assert Caller(successor, 1).channels == [0]
    successor.supervisor._let_go_of_name()
    assert os.listdir(stage.config.pool_directory) == ["pool.lock"]


def test_who_lets_go_leaves_the_socket_of_another(tmp_path: Path) -> None:
    directory = os.environ["MOLT_RUNTIME_DIR"]
    name = Name(directory, "pool")
    with name.bind():
        (tmp_path / "other").touch()
        os.rename(tmp_path / "other", name.path)  # rather than removed and made: that may have the same inode
        name.let_go()
    assert os.path.exists(name.path)
    name = Name(directory, "pool")
    with name.bind():
        name.let_go()
    assert not os.path.exists(name.path)


def test_who_lets_go_before_there_is_a_socket_frees_the_name() -> None:
    directory = os.environ["MOLT_RUNTIME_DIR"]
    for _ in range(2):
        name = Name(directory, "pool")
        Path(name.path).touch()  # another's
        name.let_go()
        name.let_go()
        assert os.path.exists(name.path)
