"""A request to a Django view that does nothing: the handler of the server's process, with no web server before it.

Once the view answers by itself, once its empty core runs in a worker. What offloading adds to a request is the
difference, in the processor time of the server's process and of the worker.
"""

from __future__ import annotations

from collections.abc import Callable

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.urls import path

from bench.micro.entrypoints import empty
from bench.micro.peers.base import Peer, Setup
from bench.micro.peers.molt import Shm
from molt_accel import molt_offload
from molt_accel.django import json_response

# What `startproject` puts before each view, without what needs a database.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]


def _plain(request: HttpRequest) -> HttpResponse:
    return json_response(empty(None))


class View(Peer):
    """The view answers by itself."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._factory = RequestFactory()

    def start(self) -> None:
        settings.configure(
            ALLOWED_HOSTS=["testserver"], MIDDLEWARE=MIDDLEWARE, ROOT_URLCONF=(path("empty/", self.view()),)
        )
        django.setup()
        self._handler = WSGIHandler()

    def view(self) -> Callable[..., HttpResponse]:
        """The view that is asked."""
        return _plain

    def call(self, payload: object) -> object:
        response = self._handler.get_response(self._factory.get("/empty/"))
        if response.status_code != 200:
            raise RuntimeError(f"the view answered {response.status_code}: {response!r}")
        response.close()
        return payload

    def stop(self) -> None:
        """Nothing to end."""


class OffloadedView(View):
    """The core of the view runs in a worker, over shared memory."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._molt = Shm(setup)

    def available(self) -> str | None:
        return self._molt.available()

    def start(self) -> None:
        super().start()
        self._molt.start()

    def view(self) -> Callable[..., HttpResponse]:
        return molt_offload(
            entry="empty", client=self._molt.client, payload_builder=lambda request: None, codec="msgpack"
        )(_plain)

    def stop(self) -> None:
        self._molt.stop()
