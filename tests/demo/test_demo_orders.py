"""The orders, from the database to JSON: both ways answer the same bytes, and nothing names a manifest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, TRANSPORTS

PROGRAM = """
import io, json
import django
django.setup()
from django.conf import settings
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from molt_accel import default_client
call_command("make_orders", stdout=(said := io.StringIO()))
default_client().start()
browser, seen = Client(), {"said": said.getvalue(), "exports": default_client().ping()["exports"]}
for zone in ("UTC", "Asia/Tokyo"):
    with timezone.override(zone):
        for query in ("", "?status=open", "?status=lost"):
            here, there = (browser.get(f"/orders/{way}/{query}") for way in ("baseline", "offload"))
            assert here.content == there.content, (zone, query)
            assert [here.status_code, dict(here.headers)] == [there.status_code, dict(there.headers)] == [
                200, {**dict(here.headers), "Content-Type": "application/json"}
            ]
            orders = here.json()
            seen[zone + query] = [len(orders), orders[:1]]
            assert all(order["status"] == "open" for order in orders) or not query
refused = [browser.post(f"/orders/{way}/") for way in ("baseline", "offload")]
seen["refused"] = [[each.status_code, each.headers["Allow"]] for each in refused]
page = [browser.get(f"/{way}/", {"user_id": 3, "limit": 5}) for way in ("baseline", "offload")]
seen["items"] = page[0].json() == page[1].json()
print(json.dumps(seen))
"""


@pytest.mark.sample(1)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_list_of_5000_orders_is_the_same_bytes(tmp_path: Path, transport: str) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "MOLT_EXPORTS"},
        "DEMO_DATABASE": str(tmp_path / "orders.sqlite3"),
        "DJANGO_SETTINGS_MODULE": "demo.django_app.settings",
        "MOLT_LOG_LEVEL": "error",
        "MOLT_TRANSPORT": transport,
        "MOLT_WORKER_EXECUTORS": "1",
    }
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["said"] == "5000 orders\n"
    spends = ["spend", "spend_limited", "spend_low"]
    assert sorted(seen["exports"]) == ["data_summary", "health", "list_items", "list_orders", *spends]
    count, [first] = seen["UTC"]
    assert count == 5000
    assert set(first) == {
        *("id", "customer", "product", "status", "quantity", "total", "placed", "shipped", "due")
    }
    assert set(first["customer"]) == {"id", "name"}
    assert float(first["total"]) == float(first["product"]["price"]) * first["quantity"]
    assert first["placed"].startswith("2026-01-01T00:00:00.")
    assert seen["Asia/Tokyo"][1][0]["placed"].startswith("2026-01-01T09:00:00.")
    assert 0 < seen["UTC?status=open"][0] < 5000
    assert seen["UTC?status=lost"] == [0, []]
    assert seen["refused"] == [[405, "GET, HEAD, OPTIONS"]] * 2
    assert seen["items"]
