"""molt_worker.runtime.cgroups: the least limit of memory of all groups around this process."""

from pathlib import Path

from molt_worker.runtime import cgroups


def test_the_least_limit_of_all_groups_around_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("5:memory,other:/service\n0::/a/b\n")
    root = tmp_path / "root"
    assert cgroups.memory(1000, str(root), str(own)) == 1000
    for folder, name, text in (
        ("a/b", "memory.max", "max"),
        ("a", "memory.max", "700"),
        ("memory/service", "memory.limit_in_bytes", "9223372036854771712"),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_text(text)
    assert cgroups.memory(1000, str(root), str(own)) == 700
    (root / "memory/service/memory.limit_in_bytes").write_text("600")
    assert cgroups.memory(1000, str(root), str(own)) == 600
    assert cgroups.memory(500, str(root), str(own)) == 500


def test_without_a_list_of_groups_the_root_s_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("400")
    assert cgroups.memory(1000, str(tmp_path), str(tmp_path / "missing")) == 400
