"""The studies by name, and which of them a preset runs."""

from __future__ import annotations

from bench.core.command import check_names
from bench.demo.options import Options
from bench.demo.studies import abort, goodput, mix, neighbour, sweep
from bench.demo.studies.testbed import Study

STUDIES: dict[str, Study] = {
    each.name: each for each in (sweep.STUDY, goodput.STUDY, mix.STUDY, neighbour.STUDY, abort.STUDY)
}
OF_PRESET = {"quick": (), "default": ("sweep", "goodput", "mix", "neighbour"), "full": tuple(STUDIES)}


def chosen_studies(options: Options) -> list[Study]:
    """The studies to run. Raises BenchError for an unknown name."""
    names = OF_PRESET[options.preset] if options.studies is None else options.studies
    if names:
        check_names("--studies", names, STUDIES)
    return [STUDIES[name] for name in names]
