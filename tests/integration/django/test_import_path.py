"""gunicorn's ways to change where modules come from: the worker follows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support import TRANSPORTS
from tests.support.processes import wait_for_file

APP = """
import json
from molt_accel import Client

client = Client(exports="elsewhere.core", executors=1, log_level="error")

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(client.call("where", timeout_ms=60_000)).encode()]
"""
CORE = "from molt_worker import export\n\n@export\ndef where(_):\n    return __file__\n"


@pytest.mark.sample(2)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("flag", ["--pythonpath", "--chdir"])
def test_a_worker_imports_from_where_gunicorn_was_told_to(tmp_path: Path, transport: str, flag: str) -> None:
    folder, address = tmp_path / "code", tmp_path / "address"
    (folder / "elsewhere").mkdir(parents=True)
    (folder / "elsewhere" / "core.py").write_text(CORE)
    (folder / "served.py").write_text(APP)
    (tmp_path / "conf.py").write_text(
        f"bind = '127.0.0.1:0'\nadr = {str(address)!r}\n"
        "def when_ready(server):\n"
        "    import os\n"
        "    host, port = server.LISTENERS[0].getsockname()\n"
        "    open(adr + '.tmp', 'w').write(f'{host}:{port}')\n"
        "    os.rename(adr + '.tmp', adr)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MOLT_IMPORT_PATH"}
    command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "-c", str(tmp_path / "conf.py")]
    server = subprocess.Popen(
        [*command, flag, str(folder), "served:application"],
        cwd=tmp_path,
        env={**environment, "MOLT_TRANSPORT": transport},
    )
    try:
        where = wait_for_file(address)
        with urlopen(f"http://{where}/", timeout=90) as answer:
            assert json.load(answer) == str(folder / "elsewhere" / "core.py")
    finally:
        server.terminate()
        server.wait(60)
