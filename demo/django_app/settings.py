"""The demo's Django settings: no middleware, and no apps that do anything for a request: a fair comparison needs none.

No manifest is named: modules named `entrypoints` of the installed apps are the exports.
"""

import os
import tempfile
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
INSTALLED_APPS = ["molt_accel.django", "demo.molt_worker_app", "demo.django_app.orders"]
MIDDLEWARE: list[str] = []
DATABASES: dict[str, Any] = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DEMO_DATABASE")
        or Path(tempfile.gettempdir()) / f"molt-demo-{os.getuid()}.sqlite3",
        "CONN_MAX_AGE": None,
    }
}
USE_TZ = True
# Of REST framework no more than the orders need: nobody logs in.
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "UNAUTHENTICATED_USER": None,
}

# Some hundred thousand rows. Below the worker's frame limit, so that both paths refuse bodies of the same size.
DATA_UPLOAD_MAX_MEMORY_SIZE = 32 * 1024 * 1024
# The handler core has its own limits, and both paths must answer with the core's error texts.
DATA_UPLOAD_MAX_NUMBER_FIELDS = None

# The benchmark has a manifest: a pool of the handler cores alone, which can be compiled as a whole.
MOLT_EXPORTS = os.environ.get("MOLT_EXPORTS", "")
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
