"""Runs the benchmarks' commands, and looks for what they leave behind."""

import os
import subprocess
import sys
import uuid
from dataclasses import dataclass

from tests.support import ROOT
from tests.support.processes import marked

MARK = "MOLT_BENCH_TEST"


@dataclass
class Command:
    """A command that was started. All that it starts inherits its mark, and so can be told from other processes."""

    process: subprocess.Popen[str]
    mark: str

    def end(self, timeout_s: float = 270) -> tuple[int, str]:
        """Its exit code and all that it printed, once it has ended; nothing that it started may be left then."""
        try:
            output, _ = self.process.communicate(timeout=timeout_s)
        finally:
            self.process.terminate()  # for one that took too long: it stops what it started
            self.process.communicate()
        assert [f"{each.pid} {each.cmdline()}" for each in marked(MARK, self.mark)] == []
        return self.process.returncode, output

    def read_until(self, text: str) -> None:
        """Reads its output up to a line with a text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return


def start(*words: str, **settings: str) -> Command:
    """Starts Python with these words, in the project's root."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {MARK: mark} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Command(process, mark)
