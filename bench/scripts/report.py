"""Makes the reports of a stored result anew: markdown, picture and HTML beside the JSON.

python bench/scripts/report.py bench/results/demo_k6_<UTC>.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(_ROOT))

from bench.harness import artifacts  # noqa: E402  # after the root is on the path


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files. Returns the exit code: 0, or 2 where the result can't be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path, metavar="JSON", help="a result of the demo benchmark")
    result: Path = parser.parse_args(arguments).result
    try:
        document = json.loads(result.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("kind") != "molt-accel demo benchmark":
            raise ValueError("it is no result of the demo benchmark")
    except (OSError, ValueError) as exc:
        print(f"report.py: {result}: {exc}", file=sys.stderr)
        return 2
    written = artifacts.write(document, result.parent, result.stem.removeprefix("demo_k6_"))
    for path in (written.markdown, written.picture, written.html):
        print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
