"""Makes the reports of a stored result anew: all files beside the JSON.

python bench/scripts/report.py bench/results/demo_k6_<UTC>.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.cluster.report import output as cluster
from bench.cluster.report.document import KIND as CLUSTER
from bench.core import BenchError
from bench.core.command import USAGE, argument_parser  # after the root is on the path
from bench.core.results import read
from bench.demo.report import output as demo
from bench.demo.report.document import KIND as DEMO
from bench.growth.report import output as growth
from bench.growth.report.document import KIND as GROWTH
from bench.micro.report import output as micro
from bench.micro.report.document import KIND as MICRO

PROGRAM = "report.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the files. Returns the exit code: 0, or 2 where the result can't be read."""
    parser = argument_parser(PROGRAM, __doc__)
    parser.add_argument(
        "result",
        type=Path,
        metavar="JSON",
        help="a result of the demo, the micro, the cluster or the growth benchmark",
    )
    result: Path = parser.parse_args(arguments).result
    writers = {DEMO: demo.write, MICRO: micro.write, CLUSTER: cluster.write, GROWTH: growth.write}
    try:
        kind, document = read(result, *writers)
    except BenchError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return USAGE
    for path in writers[kind](document, result.parent):
        print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
