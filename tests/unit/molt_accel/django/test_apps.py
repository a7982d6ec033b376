"""molt_accel.django.apps: the app, for Django's registry."""

from django.apps import AppConfig

from molt_worker.entrypoints.project import APP


def test_the_app_is_found_by_its_name_and_has_a_label_of_its_own() -> None:
    config = AppConfig.create(APP)
    assert (type(config).__name__, config.label, config.verbose_name) == ("MoltConfig", "molt", "Molt Accel")
