"""Under Django's test runner, no call reaches the real database.

A worker is a process of its own. It knows nothing of the test runner, and would read and write the database that the
settings name. So calls run inline by default while tests run, and a worker that a test asks for is told the databases
of the tests.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from molt_accel.errors import MoltStartFailed

#: Tells a worker the tests' databases: JSON, alias -> name.
VARIABLE = "MOLT_TEST_DATABASES"


def active() -> bool:
    """Whether Django's test runner, or pytest-django, has set this process up for tests."""
    utils = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(utils._TestState, "saved_data")


def names() -> str:
    """Return the databases of the tests, as `VARIABLE` has them; empty where no tests run.

    Raises:
        MoltStartFailed: one is in the memory of this process, where no worker can reach it.
    """
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    if not active():
        return ""
    from django.db import connections

    # A project without any has a dummy.
    real = [each for each in connections.all() if each.vendor != "unknown"]
    return json.dumps({each.alias: _name(each) for each in real})


def _name(connection: Any) -> str:
    name = str(connection.settings_dict["NAME"])
    wanted = str(connection.settings_dict["TEST"]["NAME"] or "test_")
    if not (name.startswith(wanted) or os.path.basename(name).startswith("test_")):  # it is not made yet
        name = str(connection.creation._get_test_db_name())
    if ":memory:" in name or "mode=memory" in name:
        raise MoltStartFailed(
            f"the tests' database {connection.alias!r} is in the memory of this process, where a worker can't reach "
            "it; leave the transport inline, or give the database a file: DATABASES[...]['TEST'] = {'NAME': ...}"
        )
    return name


def use() -> None:
    """In a worker: set up Django with the tests' databases, if it was started by tests."""
    if not os.environ.get(VARIABLE):
        return
    import django
    from django.conf import settings
    from django.db import connections

    django.setup()
    for alias, name in json.loads(os.environ[VARIABLE]).items():
        settings.DATABASES[alias]["NAME"] = connections[alias].settings_dict["NAME"] = name
