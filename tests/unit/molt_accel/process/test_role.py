"""molt_accel.process.role: which pools a process of a worker may call."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from molt_accel import Client, MoltStartFailed
from molt_accel.config import Config
from molt_accel.process import role
from molt_accel.process.role import Role
from tests.support import EXPORTS


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    role.become(Role.NONE, "")


def named(name: str) -> Config:
    return Config.load(worker_name=name)


def test_a_process_of_no_worker_may_call_any_pool() -> None:
    role.check(named("shop"))


def test_an_executor_may_call_every_pool_but_its_own() -> None:
    role.become(Role.EXECUTOR, "shop")
    role.check(named("reports"))
    with pytest.raises(MoltStartFailed, match="calls the pool 'shop' that it runs in"):
        role.check(named("shop"))


@pytest.mark.parametrize(
    ("kind", "refused"), [(Role.NONE, False), (Role.EXECUTOR, True), (Role.FORKSERVER, True)]
)
def test_a_program_that_it_starts_is_what_the_process_is(kind: Role, refused: bool) -> None:
    role.become(kind, "shop")
    code = (
        "from molt_accel.config import Config; from molt_accel.process import role; "
        "role.check(Config.load(worker_name='shop'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "MoltStartFailed" in done.stderr) == (int(refused), refused), done.stderr


def test_a_worker_starts_as_nobody_s_whoever_starts_it() -> None:
    role.become(Role.EXECUTOR, "shop")
    assert named("reports").environ()[role.VARIABLE] == ""


def test_while_exports_are_imported_nobody_calls_and_start_does_nothing(transport: str) -> None:
    role.become(Role.FORKSERVER, "shop")
    with Client(transport=transport, exports=EXPORTS) as client:
        client.start()
        with pytest.raises(MoltStartFailed, match="while a worker imports the exports"):
            client.call("echo", 1)
