"""The ASGI application, for uvicorn."""

import os

from django.core.asgi import get_asgi_application

from molt_accel.django import ShedASGI

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.django_app.settings")

application = ShedASGI(get_asgi_application())
