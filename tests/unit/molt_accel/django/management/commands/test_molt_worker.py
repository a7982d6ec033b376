"""manage.py molt_worker."""

import pytest
from django.core.management.base import CommandError
from django.test import override_settings

from tests.unit.molt_accel.django.management.commands.conftest import Ran


def test_it_becomes_the_worker_of_the_pool_that_views_look_for(ran: Ran, pool_name: str) -> None:
    assert ran("molt_worker") == (["--shm", pool_name], True)


@pytest.mark.parametrize("transport", ["stdio", "inline"])
def test_a_pool_that_no_view_would_look_for_is_refused(ran: Ran, transport: str) -> None:
    with override_settings(MOLT_TRANSPORT=transport), pytest.raises(CommandError, match=transport) as caught:
        ran("molt_worker")
    assert caught.value.returncode == 2
