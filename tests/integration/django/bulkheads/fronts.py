"""The test project's applications with what refuses in front of them."""

from molt_accel.django import ShedASGI, ShedWSGI
from tests.integration.django.asgi import application as django_asgi
from tests.integration.django.wsgi import application as django_wsgi

asgi = ShedASGI(django_asgi)
wsgi = ShedWSGI(django_wsgi)
