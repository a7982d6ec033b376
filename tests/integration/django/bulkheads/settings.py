"""The test project with two pools, and what middlewares a test wants."""

import os

from tests.integration.django.settings import *  # noqa: F403

ROOT_URLCONF = "tests.integration.django.bulkheads.urls"
MIDDLEWARE: list[str] = os.environ.get("TEST_MIDDLEWARE", "").split()
MOLT_POOLS = {"second": {"EXECUTORS": 1}}
