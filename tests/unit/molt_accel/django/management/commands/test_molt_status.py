"""manage.py molt_status."""

import pytest
from django.core.management.base import CommandError

from tests.unit.molt_accel.django.management.commands.conftest import Ran


def test_it_asks_for_the_pool_that_views_look_for(ran: Ran, pool_name: str) -> None:
    assert ran("molt_status") == (["status", "--name", pool_name], False)
    assert ran("molt_status", "--json") == (["status", "--name", pool_name, "--json"], False)
    words = ["--watch", "--interval=2.0"]
    assert ran("molt_status", *words) == (["status", "--name", pool_name, *words], False)
    with pytest.raises(CommandError, match="not allowed with"):
        ran("molt_status", "--json", "--watch")
