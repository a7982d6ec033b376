"""A request to a Django view that does nothing: the handler of the server's process, with no web server before it.

Once the view answers by itself, once its empty core runs in a worker. What offloading adds to a request is the
difference, in the processor time of the server's process and of the worker. Once more the view has a program in C send
back a byte: what any hop to another process adds, whatever it computes there.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.urls import path

from bench.micro.entrypoints import empty
from bench.micro.peers.base import Peer, Setup
from bench.micro.peers.molt import Shm
from bench.micro.peers.native import compile_program, why_not_compiled
from molt_accel import molt_offload
from molt_accel.django import json_response

HOP = Path(__file__).resolve().parents[1] / "native" / "hop.c"
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


class PipedView(View):
    """The view sends a byte by a pipe to a program in C, and waits until it comes back."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._program = setup.scratch / "hop"
        self._hop: subprocess.Popen[bytes] | None = None

    def available(self) -> str | None:
        return why_not_compiled()

    def start(self) -> None:
        super().start()
        compile_program(HOP, self._program)
        self._hop = subprocess.Popen(
            [str(self._program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def view(self) -> Callable[..., HttpResponse]:
        def there_and_back(request: HttpRequest) -> HttpResponse:
            assert self._hop is not None
            assert self._hop.stdin is not None
            assert self._hop.stdout is not None
            os.write(self._hop.stdin.fileno(), b"x")
            if os.read(self._hop.stdout.fileno(), 1) != b"x":
                raise RuntimeError("the program has ended")
            return _plain(request)

        return there_and_back

    def stop(self) -> None:
        if self._hop is not None:
            self._hop.communicate()
            self._hop = None
        self._program.unlink(missing_ok=True)


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
