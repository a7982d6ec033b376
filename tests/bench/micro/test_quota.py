"""Groups with a quota: below whichever group can have one, and with the process in it from the start."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.micro.quota import NoQuota, Quota


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders that look like control groups: a new one has the files that its parent says."""
    made = Path.mkdir

    def mkdir(self: Path, *arguments: object, **options: object) -> None:
        made(self)
        files = self.parent / "files"
        for name in files.read_text().split() if files.exists() else ():
            (self / name).write_text("")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    return tmp_path


def quota(root: Path, own: str) -> Quota:
    (root / "own").write_text(own)
    return Quota(0.5, str(root), str(root / "own"))


def test_version_2_has_one_file(root: Path) -> None:
    (root / "files").write_text("cgroup.procs cpu.max")
    group = Path(quota(root, "0::/\n").entering("shm")[-1])
    assert (group / "cpu.max").read_text() == "50000 100000"
    assert group.name.endswith("-shm")


def test_version_1_has_two(root: Path) -> None:
    (root / "cpu").mkdir()
    (root / "cpu" / "files").write_text("cgroup.procs cpu.cfs_quota_us cpu.cfs_period_us")
    group = Path(quota(root, "1:cpu:/\n0::/\n").entering("pipe")[-1])
    assert group.parent == root / "cpu"
    assert [(group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")] == ["50000", "100000"]


def test_where_no_group_can_have_a_quota_the_reason_is_told(root: Path) -> None:
    with pytest.raises(NoQuota, match="processors aren't limited there"):
        quota(root, "0::/\n").entering("shm")


def test_a_process_is_in_its_group_from_the_start_and_the_group_goes() -> None:
    with Quota(0.5) as made:
        try:
            before = made.entering("test")
        except NoQuota as error:
            pytest.skip(str(error))
        group = Path(before[-1])
        program = "from molt_worker.supervisor.shm.spinning import quota; print(quota())"
        done = subprocess.run(
            [*before, sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert float(done.stdout) == 0.5
        assert group.exists()
    assert not group.exists()
