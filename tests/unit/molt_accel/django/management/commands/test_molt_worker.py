"""manage.py molt_worker."""

from tests.unit.molt_accel.django.management.commands.conftest import Ran


def test_it_becomes_the_worker_of_the_pool_that_views_look_for(ran: Ran, pool_name: str) -> None:
    assert ran("molt_worker") == (["--shm", pool_name], True)
