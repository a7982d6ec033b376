"""Options, presets, the table of scenarios and the command line."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.core import BenchError
from bench.core.command import USAGE
from bench.core.environment import available_cores
from bench.demo.options import PRESETS, Options, Rounds, parse_assignment
from bench.demo.plan import Plan, slowness
from bench.demo.report.ablation import STEPS
from bench.demo.scenarios import GROUPS, SCENARIOS, chosen, layout
from bench.demo.studies.registry import STUDIES, chosen_studies
from bench.scripts.run_demo_bench import main, options_of, parser

PLAIN = Options()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        *(
            (f"{option} {value}", f"{option} is {value}, allowed are")
            for option, value in {
                "--server-processes": 0, "--server-threads": -1, "--executors": 0, "--max-queue": 0,
                "--concurrency": 0, "--rounds": 0, "--open-rounds": -1, "--study-rounds": 0, "--data-rows": 0,
                "--warmup": 0, "--duration": 0.9, "--rate": 0.5, "--rate-share": 1.5, "--sample-interval": "0",
            }.items()
        ),
        ("--duration nan", "--duration is nan"),
        ("--env nothing", "--env is 'nothing', expected NAME=VALUE"),
        ("--quick --full", "exclude each other"),
        ("--scenarios offlaod", "--scenarios names offlaod; known are baseline-threads, "),
        ("--scenarios data-offload --no-data", "no scenario is left"),
        ("--studies swep", "--studies names swep; known are sweep, "),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_named(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == USAGE
    error = capsys.readouterr().err
    assert error.startswith("run_demo_bench.py: ")
    assert told in error


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"transport": "pigeon"}, "--transport names pigeon; known are auto, shm, stdio, inline"),
        ({"preset": "odd"}, "preset names odd; known are quick, default, full"),
    ],
)
def test_what_the_command_line_can_not_say_is_refused_too(change: dict[str, Any], told: str) -> None:
    with pytest.raises(BenchError, match=told):
        replace(PLAIN, **change).validate()


def test_the_defaults_are_allowed() -> None:
    PLAIN.validate()
    assert PLAIN.executor_count == available_cores() >= 1


def test_options_stand_over_the_preset() -> None:
    changed = replace(PLAIN, preset="quick", duration_s=9.0, open_rounds=0)
    assert changed.rounds("list") == Rounds(1, 0, 9.0)
    assert changed.warmups("list") == PRESETS["quick"].warmup_requests
    assert replace(changed, warmup_requests=7).warmups("list") == 7
    assert replace(changed, warmup_requests=7).warmups("data") == 1


def plan(**changes: Any) -> Plan:
    options = replace(PLAIN, **changes)
    return Plan(options, chosen(options), chosen_studies(options))


def test_the_default_takes_less_than_three_minutes_and_a_look_one() -> None:
    assert plan().total_s < 150
    assert 0 < slowness() < 100
    assert plan(preset="quick").total_s < 60


def test_the_parts_of_a_plan_are_the_whole_and_are_told() -> None:
    made = plan(data=False, scenarios=("baseline-threads", "offload"), studies=("sweep", "abort"))
    text = "\n".join(made.lines())
    parts = [float(seconds) for seconds in re.findall(r"^ +(\d+) s", text, re.M)]
    assert sum(parts) == pytest.approx(made.total_s, abs=3)
    rounds = "3 closed and 1 open rounds of 2 s: baseline-threads, offload"
    assert re.search(f"Preset default, about.*{rounds}.*sweep, abort.*--full runs every scenario", text, re.S)
    assert "--full" not in "\n".join(plan(preset="full").lines())


def test_what_takes_part_is_in_the_plan() -> None:
    alone = plan(scenarios=("baseline-threads",), studies=())
    assert not alone.builds
    assert not plan(scenarios=("baseline-threads",), studies=("neighbour", "mix")).builds
    assert plan(scenarios=("baseline-threads",), studies=("sweep",)).builds
    assert plan(study_rounds=3).studies_s > plan(study_rounds=2).studies_s > plan().studies_s
    more = plan(scenarios=("baseline-threads",), studies=(), closed_rounds=PLAIN.rounds("list").closed + 2)
    computed = alone.total_s - alone.load_s
    assert replace(alone, slowness=3.0).total_s == pytest.approx(alone.load_s + 3 * computed)
    assert more.total_s - alone.total_s == pytest.approx(2 * alone.run_s("list"))


def test_the_default_has_the_honest_headline() -> None:
    """Threads, a process for each core, the same native code in the server; offloaded in Python and compiled."""
    names = ["baseline-threads", "baseline-cores", "baseline-cores-compiled", "offload-python", "offload"]
    for preset in ("quick", "default"):
        assert [scenario.name for scenario in chosen(replace(PLAIN, preset=preset))] == names


def test_the_full_preset_carries_tuned_baselines_and_every_step_of_the_ablation() -> None:
    full = chosen(replace(PLAIN, preset="full"))
    assert {name for step in STEPS for name in (step.before, step.after)} <= {each.name for each in full}
    for group in GROUPS:
        members = [scenario for scenario in full if scenario.group == group]
        assert [member.per_core for member in members if member.role == "baseline"][:2] == [False, True]
        assert [member.name for member in members if member.role == "offload" and member.headline]


def test_names_are_unique_and_groups_known() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    assert {scenario.group for scenario in SCENARIOS} == set(GROUPS)


def test_the_list_queries_are_many_and_free_of_repeated_parameters() -> None:
    queries = GROUPS["list"].queries
    assert len(set(queries)) >= 30
    for query in queries:
        names = [part.partition("=")[0] for part in query.split("&") if not part.startswith("status")]
        assert len(set(names)) == len(names)


def test_choosing_by_name_and_leaving_the_data_path_out() -> None:
    named = replace(PLAIN, scenarios=("data-offload", "offload-python", "baseline-threads"))
    names = ["baseline-threads", "offload-python", "data-offload"]
    assert [scenario.name for scenario in chosen(named)] == names
    assert [scenario.name for scenario in chosen(replace(named, data=False))] == names[:2]


def test_layouts() -> None:
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    options = replace(PLAIN, server_processes=3, server_threads=5, executors=4, transport="stdio")
    cores = available_cores()
    laid_out = {name: layout(scenario, options) for name, scenario in by_name.items()}
    alone = {"server_processes": 3, "server_threads": 5, "workers": 0, "executors": 0, "transport": None}
    assert laid_out["baseline-threads"].as_json() == alone
    assert laid_out["baseline-cores"].server_processes == cores
    assert (laid_out["offload"].executors, laid_out["offload"].transport) == (4, "stdio")
    assert laid_out["offload"].workers == 3
    assert layout(by_name["offload"], replace(options, transport="shm")).workers == 1
    assert laid_out["offload-stdio"].transport == "stdio"
    assert laid_out["offload-cores"].server_processes == laid_out["offload-cores"].workers == cores
    assert layout(by_name["offload"], replace(options, transport="auto")).workers is None
    assert layout(by_name["offload"], replace(options, transport="inline")).workers == 0


def test_assignments() -> None:
    for text in ("A=b", "A=", "A_1=b=c"):
        assert parse_assignment(text) == tuple(text.split("=", 1))


@pytest.mark.parametrize("text", ["", "A", "=b", "1A=b", "A B=c"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="expected NAME=VALUE"):
        parse_assignment(text)


def test_the_command_line_becomes_options() -> None:
    words = "--quick --no-data --scenarios offload,baseline-cores --rate 90 --out x"
    words += " --db-delay-ms 2 --env MOLT_SPIN_US=0"
    options = options_of(words.split())
    assert (options.preset, options.data, options.rate) == ("quick", False, 90.0)
    assert options.scenarios == ("offload", "baseline-cores")
    assert options.extra_env == {"MOLT_FAKE_DB_DELAY_MS": "2", "MOLT_SPIN_US": "0"}
    assert (options.out, options.studies) == (Path("x"), None)
    for words, names in (("all", tuple(STUDIES)), ("none", ()), ("abort,sweep", ("abort", "sweep"))):
        assert options_of(["--studies", words]).studies == names


def test_help_names_scenarios_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    text = capsys.readouterr().out
    for word in ("--quick", "--full", "baseline-cores", "offload-cores *", "process-pool +", "Exit codes"):
        assert word in text
