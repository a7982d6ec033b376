"""Servers that reload themselves take changed code that only executors import, and never mix old and new."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.django.servers import Kind, Server, serving
from tests.support.processes import wait_until

#: After this a file is written once more: a server that has just started may not have seen the one before the change.
AGAIN_S = 3
SETTINGS = """
SECRET_KEY, DEBUG, ALLOWED_HOSTS = "tests", True, ["*"]
INSTALLED_APPS = [{first}"molt_accel.django", "shop"]
ROOT_URLCONF, ASGI_APPLICATION = "shop.urls", "asgi.application"
MOLT_WORKER_EXECUTORS = 1
"""
FILES = {
    "asgi.py": "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n",
    "wsgi.py": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
    "gunicorn.conf.py": """
def post_worker_init(worker):
    from molt_accel import default_client
    from molt_accel.django import source_files
    default_client().start()
    if worker.reloader:
        for path in source_files():
            worker.reloader.add_extra_file(path)
""",
    "shop/__init__.py": "",
    "shop/shared.py": "VERSION = 1\n",
    "shop/late.py": "VERSION = 1\n",
    "outside/faraway.py": "VERSION = 1\n",
    "shop/entrypoints.py": """
import faraway
from molt_worker import export
from shop import shared
VERSION = 1

@export
def versions(payload):
    from shop import late
    return [payload, shared.VERSION, VERSION, late.VERSION, faraway.VERSION]
""",
    "shop/urls.py": """
import os, sys
from django.http import JsonResponse
from django.urls import path
from molt_accel import molt_offload
from shop import shared

@molt_offload(entry="versions", timeout_ms=60_000, payload_builder=lambda request: shared.VERSION)
def versions(request): ...

def imported(request):
    names = ("shop.entrypoints", "shop.late", "faraway")
    return JsonResponse([name for name in names if name in sys.modules], safe=False)

urlpatterns = [path("versions", versions), path("imported", imported)]
""",
}

RUNSERVER = Kind("runserver", ("django", "runserver", "127.0.0.1:{port}"), (), own_socket=True, reloads=True)
DAPHNE = Kind("daphne", RUNSERVER.command, (), own_socket=True, reloads=True)
GUNICORN = Kind(
    "gunicorn",
    ("gunicorn", "--bind", "fd://{fd}", "--no-control-socket", "--reload", "--reload-engine", "poll", "wsgi"),
    (),
    reloads=True,
)
UVICORN = Kind(
    "uvicorn",
    ("uvicorn", "--reload", "--port", "{port}", "asgi:application"),
    (),
    own_socket=True,
    reloads=True,
)


def answer(server: Server, path: str = "/versions") -> Any:
    """The answer; None while the server is not there, or is about to go."""
    try:
        status, body = server.get(path)
    except OSError:
        return None
    if status in (499, 503) or not body:  # runserver writes head and body apart, and may go between the two
        return None
    assert status == 200, body
    return json.loads(body)


class Project:
    """The files of a project, which a server runs."""

    def __init__(self, folder: Path, first: str = "") -> None:
        self.folder = folder
        for name, text in {**FILES, "settings.py": SETTINGS.format(first=first)}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)

    def change(self, name: str, version: int) -> None:
        """Replace a module as an editor does, so that nobody reads half of it."""
        path = self.folder / name
        lines = path.read_text().splitlines(keepends=True)
        changed = [f"VERSION = {version}\n" if line.startswith("VERSION") else line for line in lines]
        path.with_suffix(".new").write_text("".join(changed))
        path.with_suffix(".new").replace(path)

    def becomes(self, server: Server, name: str, version: int, expected: list[int]) -> None:
        """Change a module, and wait for the answer of the new code. Until then it is that of the old."""

        def is_new() -> bool:
            if (seen := answer(server)) is not None:
                assert seen in (before, expected)
            return bool(seen == expected)

        before = wait_until(lambda: answer(server), 60)
        for last in (False, False, True):
            self.change(name, version)
            try:
                wait_until(is_new, 60 if last else AGAIN_S)
            except AssertionError as exc:
                if last or "in time" not in str(exc):
                    raise
            else:
                return


@pytest.mark.sample(1)
@pytest.mark.parametrize("transport", ["shm"], indirect=True)
@pytest.mark.parametrize("kind", [RUNSERVER, DAPHNE, GUNICORN, UVICORN], ids=lambda kind: kind.name)
def test_a_change_of_what_only_executors_import_is_served_with_the_next_request(
    kind: Kind, transport: str, tmp_path: Path
) -> None:
    project = Project(tmp_path, '"daphne", ' if kind is DAPHNE else "")
    environment = {
        "DJANGO_SETTINGS_MODULE": "settings",
        "MOLT_IMPORT_PATH": "",
        "MOLT_TRANSPORT": transport,
        "MOLT_WORKER_LINGER_MS": "3000",
        "PYTHONDONTWRITEBYTECODE": "1",  # whose times are seconds
        "PYTHONPATH": os.pathsep.join(("outside", *filter(None, [os.environ.get("PYTHONPATH")]))),
    }
    with serving(kind, tmp_path / "server.log", tmp_path, **environment) as server:
        wait_until(lambda: answer(server) == [1, 1, 1, 1, 1], 60)
        assert answer(server, "/imported") == []
        project.becomes(server, "shop/entrypoints.py", 2, [1, 1, 2, 1, 1])
        project.becomes(server, "shop/shared.py", 3, [3, 3, 2, 1, 1])
        if kind is RUNSERVER:
            project.becomes(server, "shop/late.py", 4, [3, 3, 2, 4, 1])
            project.becomes(server, "outside/faraway.py", 5, [3, 3, 2, 4, 5])
        assert answer(server, "/imported") == []
