"""manage.py molt_check."""

import pytest

from tests.unit.molt_accel.django.management.commands.conftest import Ran


def test_the_project_s_checks_come_first(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        "molt_accel.django.management.commands.molt_check.call_command",
        lambda *words, **_: asked.append(words),
    )
    assert ran("molt_check") == (["--check"], False)
    assert asked == [("check", "--tag", "molt", "--deploy")]
