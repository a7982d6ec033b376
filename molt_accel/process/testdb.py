"""Under Django's test runner, no call reaches the real database.

A worker is a process of its own. It knows nothing of the test runner, and would read and write the database that the
settings name. So calls run inline by default while tests run, and a worker that a test asks for is told the databases
of the tests.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any, Final

from molt_accel.errors import MoltStartFailed

#: Tells a worker the tests' databases: JSON, alias -> name.
VARIABLE = "MOLT_TEST_DATABASES"


TESTS: Final = "django.test.utils"  #: the module that is imported wherever tests run
#: ``manage.py``, ``django-admin`` and ``python -m django``: the subcommands that put other databases in place.
_COMMANDS: Final = ("test", "testserver")
_TESTSERVER: Final = "django.core.management.commands.testserver"


def in_force() -> bool:
    """Whether a test environment is set up in this process."""
    utils = sys.modules.get(TESTS)
    return utils is not None and hasattr(utils._TestState, "saved_data")


def active() -> bool:
    """Whether this process runs tests, or a server on their databases, or is about to.

    A project's ``AppConfig.ready`` runs, and pytest imports the tests, before the test environment is set up. What is
    made then must not work on the real database either.
    """
    return in_force() or about_to_be()


def about_to_be() -> bool:
    """Whether a command that puts the tests' databases in place runs here, and no test environment is set up.

    ``manage.py testserver`` never sets one up.
    """
    return not in_force() and (_TESTSERVER in sys.modules or _is_command())


def _is_command() -> bool:
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return False  # there are no databases yet
    if "pytest_django" in sys.modules:  # it sets up a test environment wherever there are settings
        return True
    program = os.path.join(os.sep, sys.argv[0] if sys.argv else "")
    is_django = program.endswith(
        (f"{os.sep}manage.py", f"{os.sep}django-admin", os.path.join(os.sep, "django", "__main__.py"))
    )
    return is_django and sys.argv[1:2] in ([each] for each in _COMMANDS)


def on_override(names_from: str, changed: Callable[[], object]) -> None:
    """Have `changed` called whenever a test overrides a setting whose name begins so, and at the override's end."""
    signals = sys.modules.get("django.core.signals")
    if signals is None:
        return

    def receive(*, setting: str, **_: object) -> None:
        if setting.startswith(names_from):
            changed()

    signals.setting_changed.connect(receive, weak=False, dispatch_uid=f"{__name__} {names_from}")


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
    test = connection.settings_dict["TEST"]
    if test["MIRROR"]:
        from django.db import connections

        return _name(connections[test["MIRROR"]])
    name = str(connection.settings_dict["NAME"])
    if not _is_made(name, str(test["NAME"] or "")):
        name = str(connection.creation._get_test_db_name())
    if ":memory:" in name or "mode=memory" in name:
        raise MoltStartFailed(
            f"the tests' database {connection.alias!r} is in the memory of this process, where a worker can't reach "
            "it; leave the transport inline, or give the database a file: DATABASES[...]['TEST'] = {'NAME': ...}"
        )
    return name


def _is_made(name: str, wanted: str) -> bool:
    """Whether Django has put the tests' database in place. Tests that run at once have numbered copies of it."""
    if not wanted:
        return os.path.basename(name).startswith("test_")
    root, suffix = os.path.splitext(wanted)
    return bool(re.fullmatch(rf"{re.escape(root)}(_\d+)?{re.escape(suffix)}(_\d+)?", name))


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
