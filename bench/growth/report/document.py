"""Assembles the results document: the object that is stored as JSON and that all reports are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.environment import available_cores, tools
from bench.core.results import Heading, Kind
from bench.core.statistics import rounded, spread_json
from bench.growth.callers import SETTINGS, Turn
from bench.growth.options import CHANNELS_OF_A_CLIENT, EXECUTORS, PAYLOAD_BYTES, Options
from bench.growth.steps import STEPS, Cost

KIND = Kind("molt-accel growth benchmark", "growth", 1)
PACKAGES = ("molt-accel", "msgpack", "msgspec")
FIGURES = ("p50_us", "p99_us", "calls_s")


def build(
    heading: Heading,
    options: Options,
    costs: Mapping[str, Mapping[int, Cost]],
    turns: Sequence[Turn],
    *,
    settings: Mapping[str, str],
    errors: list[str],
) -> dict[str, Any]:
    """The results document; its fields are described in `bench/README.md`."""
    few = [f"{options.round_count} rounds say little; the default is made for comparing."]
    return heading.document(
        errors=errors,
        warnings=few if turns and options.round_count < 3 else [],
        tools=tools(PACKAGES),
        options={
            "preset": options.preset,
            "rounds": options.round_count,
            "batch_s": options.defaults.batch_s,
            "window_s": options.defaults.window_s,
            "executors": EXECUTORS,
            "payload_bytes": PAYLOAD_BYTES,
            "channels_of_a_client": CHANNELS_OF_A_CLIENT,
            "cores": available_cores(),
        },
        settings=dict(settings) | SETTINGS,
        steps={
            step: {
                "what": STEPS[step],
                "channels": {
                    str(channels): {"ns": rounded(cost.ns), "instructions": cost.instructions}
                    for channels, cost in of_step.items()
                },
            }
            for step, of_step in costs.items()
        },
        calls={
            str(count): {
                figure: spread_json(
                    dataclasses.asdict(turn)[figure] for turn in turns if turn.clients == count
                )
                for figure in FIGURES
            }
            for count in dict.fromkeys(turn.clients for turn in turns)
        },
    )
