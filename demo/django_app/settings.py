"""The demo's Django settings: no middleware and no apps, because a fair comparison needs neither."""

import os
from pathlib import Path
from typing import Any

from molt_worker.compile import record as compiled

# The demo signs and stores nothing, so the key protects nothing.
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "the demo keeps no secrets")
DEBUG = os.environ.get("DJANGO_DEBUG", "") == "1"
ALLOWED_HOSTS = ["*"]

ROOT_URLCONF = "demo.django_app.urls"
WSGI_APPLICATION = "demo.django_app.wsgi.application"
ASGI_APPLICATION = "demo.django_app.asgi.application"
INSTALLED_APPS: list[str] = []
MIDDLEWARE: list[str] = []
DATABASES: dict[str, Any] = {}
USE_TZ = True

# Some hundred thousand rows. Below the worker's frame limit, so that both paths refuse bodies of the same size.
DATA_UPLOAD_MAX_MEMORY_SIZE = 32 * 1024 * 1024
# The handler core has its own limits, and both paths must answer with the core's error texts.
DATA_UPLOAD_MAX_NUMBER_FIELDS = None

# The default lets `manage.py runserver` work without any configuration.
MOLT_EXPORTS = os.environ.get("MOLT_EXPORTS") or str(
    Path(__file__).resolve().parent.parent / "molt_worker_app" / "molt_exports.json"
)
# This process imports the handler cores from their build too, for a baseline that is compiled but not offloaded.
if os.environ.get("DEMO_COMPILED") == "1":
    compiled.enable(MOLT_EXPORTS, "require", os.environ.get("MOLT_BUILD_DIR", ""))
# The demo appends one JSON line for each request to this file; empty: off.
MOLT_DEMO_METRICS_PATH = os.environ.get("MOLT_DEMO_METRICS_PATH", "")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    # Refused requests are not logged: a line for each would only slow a benchmark of errors.
    "loggers": {"django.request": {"level": "ERROR"}},
}
