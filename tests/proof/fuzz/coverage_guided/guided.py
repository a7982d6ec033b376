"""Runs one Python target under atheris:
`python -m tests.proof.fuzz.coverage_guided.guided TARGET [libFuzzer options]`.
"""

import gc
import sys

import atheris  # type: ignore[import-untyped]

# Before the first import of what is to be measured.
with atheris.instrument_imports(include=["molt_accel", "molt_worker"]):
    from tests.proof.fuzz.coverage_guided.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    target = TARGETS[sys.argv[1]]
    gc.freeze()
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
