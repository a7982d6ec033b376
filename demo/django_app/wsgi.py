"""The WSGI application, for gunicorn and runserver."""

import os

from django.core.wsgi import get_wsgi_application

from molt_accel.django import ShedWSGI

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.django_app.settings")

application = ShedWSGI(get_wsgi_application())
