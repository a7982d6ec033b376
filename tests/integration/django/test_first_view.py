"""The tutorial's first offloaded view: from `startproject`, in six lines, while the server runs."""

import json
import os
import subprocess
import sys
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.integration.django.servers import serving
from tests.integration.django.test_autoreload import AGAIN_S, RUNSERVER
from tests.support.documents import SETTINGS, blocks, read, startproject
from tests.support.processes import wait_until


@pytest.mark.parametrize("transport", ["shm"], indirect=True)
def test_six_lines_make_a_new_project_s_first_offloaded_view(transport: str, tmp_path: Path) -> None:
    (steps,) = [part for part in read("tutorial.md").split("\n## ") if "in six lines\n" in part]
    files = [block for block in blocks(steps) if block.file]
    assert sum(len(block.text.splitlines()) for block in files) == 6
    (shown,) = [json.loads(block.text) for block in blocks(steps) if block.language == "text"]
    subprocess.run([sys.executable, "-m", "django", *startproject()], cwd=tmp_path, check=True, timeout=60)
    environment = {"MOLT_IMPORT_PATH": "", "MOLT_TRANSPORT": transport, "DJANGO_SETTINGS_MODULE": SETTINGS}
    server_log = tmp_path / "server.log"
    with serving(RUNSERVER, server_log, tmp_path, **environment) as server:

        def answers() -> bool:
            try:
                status, body = server.get("/total")
            except (OSError, HTTPException):  # it reloads itself, perhaps in the middle of an answer
                return False
            return status == 200 and json.loads(body) == shown

        wait_until(lambda: server.get("/total")[0] == 404, 60)
        for block in files:
            block.write(tmp_path)
        for last in (False, False, True):
            try:
                wait_until(answers, 60 if last else AGAIN_S)
                break
            except AssertionError:
                if last:
                    raise
                # A server that has just started may not have seen a file before its change.
                for block in files:
                    os.utime(tmp_path / str(block.file))
        assert server.process.poll() is None
