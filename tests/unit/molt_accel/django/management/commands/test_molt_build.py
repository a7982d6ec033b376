"""manage.py molt_build."""

from tests.unit.molt_accel.django.management.commands.conftest import Ran


def test_its_options_are_those_of_the_build(ran: Ran) -> None:
    assert ran("molt_build") == (["build"], False)
    words = [
        "--check",
        "--strict",
        "--include=a.b",
        "--include=c",
        "--verify=-calls.jsonl",
        "--force",
        "--json",
    ]
    assert ran("molt_build", *words) == (["build", *words], False)
