"""What figures depend on: commit, machine, tools, settings; and no path of the machine."""

import json
import subprocess
from pathlib import Path

import pytest

from bench.core import environment


def test_git_state_follows_the_work_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)

    def git(*words: str) -> None:
        who = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    assert environment.git_state(tmp_path) == {"commit": None, "dirty": False}
    (tmp_path / "file").write_text("one", encoding="utf-8")
    git("add", "file")
    git("commit", "-m", "one")
    state = environment.git_state(tmp_path)
    assert state["dirty"] is False
    assert len(state["commit"]) == 40
    (tmp_path / "file").write_text("two", encoding="utf-8")
    assert environment.git_state(tmp_path) == {"commit": state["commit"], "dirty": True}


def test_without_git_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.git_state(tmp_path) == {"commit": None, "dirty": None}


def test_machine_and_tools_are_json_and_name_no_host() -> None:
    import platform

    facts = environment.machine()
    assert facts["cores_usable"] >= 1
    assert facts["memory_mib"] > 0
    versions = environment.tools(["gunicorn", "not-installed"], k6="1.1.0")
    assert versions["k6"] == "1.1.0"
    assert versions["gunicorn"]
    assert versions["not_installed"] is None
    assert platform.node() not in json.dumps([facts, versions]).split('"')


def test_settings_are_the_projects_own() -> None:
    given_ = {"MOLT_TRANSPORT": "stdio", "PATH": "x", "MOLT_A": "1"}
    assert list(environment.settings(given_).items()) == [("MOLT_A", "1"), ("MOLT_TRANSPORT", "stdio")]


def test_paths_become_names_everywhere_the_inner_one_first() -> None:
    places = {"/home/me": "~", "/home/me/project": ".", "/scratch/x": "<scratch>"}
    value = {"a": ["/home/me/project/b", "/home/me/c"], "d": ("/scratch/x/e", 7, None), "f": 1.5}
    assert environment.without_paths(value, places) == {
        "a": ["./b", "~/c"],
        "d": ["<scratch>/e", 7, None],
        "f": 1.5,
    }
