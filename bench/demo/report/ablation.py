"""Where the gain comes from: pairs of scenarios that differ in one thing, as ratios within each round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.demo.report.aggregate import Run, ratios


class Step(NamedTuple):
    """Two scenarios, and what the second has that the first has not."""

    explains: str
    before: str
    after: str
    title: str


STEPS = (
    Step("parallelism", "baseline-threads", "baseline-cores", "a process for each core, without offload"),
    Step("codec", "baseline-cores", "baseline-cores-orjson", "orjson instead of Django's JSON"),
    Step(
        "compilation", "baseline-cores-orjson", "baseline-cores-compiled", "compiled, but still in the server"
    ),
    Step("offload", "baseline-threads", "offload-stdio", "moved to executors, over stdio"),
    Step("transport", "offload-stdio", "offload-python", "shared memory instead of stdio"),
    Step("compilation", "offload-python", "offload", "compiled in the executors"),
    Step(
        "place",
        "baseline-cores-compiled",
        "offload",
        "the same native code: in the executors, not the server",
    ),
)


def ablation(runs: Sequence[Run]) -> dict[str, Any]:
    """The steps whose scenarios both ran, with ratios of throughput, processor time and p99."""
    steps = []
    for step in STEPS:
        found = ratios(runs, step.after, step.before, "closed", ("req_s", "cpu_ms_per_request", "p99_ms"))
        if found is not None:
            steps.append(step._asdict() | found)
    return {"steps": steps}
