"""The management commands and checks of a real project, and a pool that one of them serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.processes import wait_until

FILES = {
    "manage.py": """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
""",
    "settings.py": """
SECRET_KEY, DEBUG, ALLOWED_HOSTS, ROOT_URLCONF = "k" * 50, False, ["localhost"], "shop.urls"
INSTALLED_APPS = ["molt_accel.django", "shop"]
MOLT_WORKER_EXECUTORS = 1
MOLT_POOLS = {"reports": {"MAX_QUEUE": 3}}
""",
    "shop/__init__.py": "",
    "shop/entrypoints.py": """
import os
from molt_worker import export

@export
def parent(payload):
    return os.getppid()
""",
    "shop/urls.py": """
from molt_accel import molt_offload

@molt_offload(entry="parant")
def view(request): ...

urlpatterns = []
""",
    "shop/more.py": """
from molt_worker import export

def entry(function):
    return export(function)

@entry
def parent(payload): ...
""",
    "ask.py": """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django, psutil
django.setup()
from molt_accel import client_for
for pool in ("reports", "default"):
    client = client_for(pool)
    print(psutil.Process(client.call("parent", timeout_ms=60_000)).ppid(), client.ping()["pid"])
    client.close()
""",
}


def test_commands_and_checks_are_about_the_project_s_own_pools(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environ = {**os.environ, "MOLT_TRANSPORT": "shm", "MOLT_IMPORT_PATH": ""}

    def manage(*arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stdout, done.stderr

    code, _, said = manage("check")
    assert code == 0, said
    assert "(molt.W001) The pool 'default': shop.urls.view offloads 'parant', which no export has." in said
    code, listed, _ = manage("molt_check", "--pool", "reports")
    assert (code, listed.splitlines()[-1]) == (0, "parent  shop.entrypoints:parent  msgpack -> msgpack")
    (tmp_path / "mistaken.py").write_text("from settings import *\nMOLT_WORKER_EXECUTORS = 'many'\n")
    code, _, said = manage("check", "--settings", "mistaken")
    assert (code, "(molt.E001) MOLT_WORKER_EXECUTORS" in said) == (1, True)
    # A decorator of the project's own: only an import can tell.
    (tmp_path / "own.py").write_text("from settings import *\nMOLT_EXPORTS, MOLT_POOLS = 'shop.more', {}\n")
    code, _, said = manage("check", "--tag", "molt", "--settings", "own")
    assert (code, "molt." in said) == (0, False), said
    code, listed, said = manage("molt_check", "--settings", "own")
    assert (code, "(molt.W001)" in said) == (0, True), said
    assert listed.splitlines()[-1] == "parent  shop.more:parent  msgpack -> msgpack"
    (tmp_path / "broken.py").write_text("from settings import *\nMOLT_EXPORTS = 'shop.nothing'\n")
    code, _, said = manage("molt_check", "--settings", "broken")
    assert (code, "(molt.E002)" in said) == (1, True), said
    code, _, said = manage("molt_status", "--pool", "reports")
    assert (code, "nobody serves the pool" in said) == (1, True)
    code, _, said = manage("molt_build", "--check", "--pool", "nope")
    assert (code, said) == (2, "CommandError: MOLT_POOLS has no pool 'nope'; it has: default, reports\n")

    with subprocess.Popen(
        [sys.executable, "manage.py", "molt_worker", "--pool", "reports"],
        cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True,
    ) as worker:  # fmt: skip
        try:
            wait_until(lambda: manage("molt_status", "--pool", "reports")[0] == 0, 60)
            done = subprocess.run(
                [sys.executable, "ask.py"],
                cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            reports, default = [list(map(int, line.split())) for line in done.stdout.splitlines()]
            assert reports == [worker.pid, worker.pid]  # the views' pool is the command's
            assert default[0] == default[1] != worker.pid
            code, shown, _ = manage("molt_status", "--pool", "reports", "--json")
            assert (code, json.loads(shown)["pid"]) == (0, worker.pid)
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0, worker.stderr and worker.stderr.read()
