"""The tests' own Django project: as little Django as the tests need."""

import os

SECRET_KEY = "the tests keep no secrets"
DEBUG = False
ALLOWED_HOSTS = ["*"]

ROOT_URLCONF = "tests.integration.django.urls"
WSGI_APPLICATION = "tests.integration.django.wsgi.application"
INSTALLED_APPS: list[str] = []
MIDDLEWARE: list[str] = os.environ.get("TEST_MIDDLEWARE", "").split()
USE_TZ = True

MOLT_EXPORTS = "tests.support.entrypoints"
MOLT_WORKER_EXECUTORS = os.environ.get("TEST_EXECUTORS", "2")
MOLT_LOG_LEVEL = "error"
MOLT_POOLS = {"second": {"EXECUTORS": 1}}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
USE_I18N = False
#: The tests have no users, and no tables for any.
REST_FRAMEWORK = {"UNAUTHENTICATED_USER": None, "UNAUTHENTICATED_TOKEN": None}
