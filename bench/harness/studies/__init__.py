"""Questions beside the main comparison, each asked by a module of its own; `study.py` has what they share."""

from __future__ import annotations

from bench.harness.studies import abort, goodput, neighbour, sweep
from bench.harness.studies.study import Study

STUDIES: dict[str, Study] = {
    each.name: each for each in (sweep.STUDY, neighbour.STUDY, goodput.STUDY, abort.STUDY)
}
