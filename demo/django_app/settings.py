"""The demo's Django settings: as little Django as a fair comparison needs: no middleware, no apps."""

import os
from pathlib import Path
from typing import Any

from molt_worker.compile import record as compiled

# Nothing here signs or stores anything.
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

# Some hundred thousand rows; below the worker's frame limit, so that both paths refuse at the same size.
DATA_UPLOAD_MAX_MEMORY_SIZE = 32 * 1024 * 1024
# The handler core has limits of its own, and both paths must answer with its words.
DATA_UPLOAD_MAX_NUMBER_FIELDS = None

# What the worker runs, so that `manage.py runserver` works without any configuration.
MOLT_EXPORTS = os.environ.get("MOLT_EXPORTS") or str(
    Path(__file__).resolve().parent.parent / "molt_worker_app" / "molt_exports.json"
)
# Take the handler cores from their build in this process too, for a baseline that is compiled but not offloaded.
if os.environ.get("DEMO_COMPILED") == "1":
    compiled.enable(MOLT_EXPORTS, "require", os.environ.get("MOLT_BUILD_DIR", ""))
# One JSON line for each request is appended to this file; empty: off.
MOLT_DEMO_METRICS_PATH = os.environ.get("MOLT_DEMO_METRICS_PATH", "")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    # A refused request is the client's business; a line for each would only slow a benchmark of errors.
    "loggers": {"django.request": {"level": "ERROR"}},
}
