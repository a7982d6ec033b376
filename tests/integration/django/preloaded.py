"""The WSGI application of a server that has used its client before it forks (gunicorn --preload)."""

from molt_accel.client import default_client
from tests.integration.django.wsgi import application

assert default_client().call("echo", "before the fork") == "before the fork"

__all__ = ["application"]
