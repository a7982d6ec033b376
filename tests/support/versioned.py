"""Exports that say of which version they are, for tests of reloads."""

SOURCE = """
import os, time
from molt_worker import export

time.sleep({import_s})

@export
def version(payload):
    return {version}

@export
def hold(path):
    open(path + ".running", "w").write("x")
    while not os.path.exists(path):
        time.sleep(0.001)
    return {version}
"""


def source(version: object, extra: str = "", import_s: float = 0) -> str:
    """A module of this version, with further code behind it. Its import takes so many seconds."""
    return SOURCE.format(version=version, import_s=import_s) + extra
