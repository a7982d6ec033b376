"""The fake database's settings: defaults, values, and refusals that say what is allowed."""

import os
import subprocess
import sys

import pytest

from demo.molt_worker_app.settings import FakeDbSettings, SettingError, read_settings

NAMES = ("MOLT_FAKE_DB_DELAY_MS", "MOLT_FAKE_DB_DECODE_US_PER_ROW", "MOLT_FAKE_DB_CPU_ITERS")


def test_everything_is_off_by_default() -> None:
    assert read_settings({}) == FakeDbSettings(0, 0, 0)
    assert read_settings(dict.fromkeys(NAMES, " ")) == FakeDbSettings(0, 0, 0)


def test_each_setting_is_read() -> None:
    assert read_settings(dict(zip(NAMES, ("5", "20", " 3000 "), strict=True))) == FakeDbSettings(5, 20, 3000)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["-1", "1.5", "five", "1e3", "٣", "99999999999", "9" * 5000, "0x1"])
def test_a_wrong_value_is_refused_with_name_value_and_what_is_allowed(name: str, value: str) -> None:
    with pytest.raises(SettingError) as raised:
        read_settings({name: value})
    text = str(raised.value)
    assert text.startswith(f"{name}: {value[:20]!r}"[:-1])
    assert "allowed: a whole number from 0 to" in text
    assert len(text) < 250


def test_a_wrong_value_stops_the_import_with_that_text() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import demo.molt_worker_app.core"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MOLT_FAKE_DB_DELAY_MS": "soon"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert (
        "MOLT_FAKE_DB_DELAY_MS: 'soon' is not allowed; allowed: a whole number from 0 to 60000" in done.stderr
    )
