"""Checks the model of the hand-over, handover.pml: what holds in each configuration, and what each rule is there for.

A configuration must hold. A mutation leaves one rule out, and must give a counterexample in the configuration it names.

    python tests/proof/model/check.py                 all of them
    python tests/proof/model/check.py --quick         what takes a few seconds
    python tests/proof/model/check.py --trace NAME    the steps of a counterexample
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MODEL: Final = Path(__file__).with_name("handover.pml")
_MEMORY_MB: Final = 6000
_DEPTH: Final = 1_000_000


@dataclass(frozen=True)
class Configuration:
    """How many of whom, which faults, and what that shows."""

    name: str
    defines: str
    shows: str
    quick: bool = False
    ends: bool = False  #: is searched for runs without an end, too, as the quick ones are
    races: bool = False  #: has runs without an end, of two that step back from each other for ever


@dataclass(frozen=True)
class Mutation:
    """A rule that is left out by a flag, and the configuration that finds it missing."""

    flag: str
    configuration: str
    rule: str
    quick: bool = False


@dataclass(frozen=True)
class Result:
    """What the checker found."""

    verdict: str  #: holds, cycle, assertion, deadlock
    states: int
    depth: int
    seconds: float
    detail: str = ""


CONFIGURATIONS: Final = {
    each.name: each
    for each in (
        Configuration("calls", "C=1 E=1 R=3", "calls, one after the other", quick=True),
        Configuration("queue", "C=2 E=1 R=1", "two clients, one executor", quick=True),
        Configuration("choice", "C=1 E=2 R=2", "one client, two executors"),
        Configuration("fences", "C=1 E=1 R=2 TSO SPINS", "store buffers", quick=True),
        Configuration(
            "executor_dies",
            "C=1 E=1 R=2 EXECUTOR_KILLS=2 RESPAWN BOUNDED_CLIENTS=1",
            "executors die anywhere and have successors",
            quick=True,
        ),
        Configuration(
            "other_wakes",
            "C=1 E=2 R=1 EXECUTOR_KILLS=1 BOUNDED_CLIENTS=1",
            "one of two executors dies anywhere, without a successor; executors' parks end by wake-ups only",
        ),
        Configuration(
            "late",
            "C=1 E=1 R=2 HANGS=1 DEADLINES=1 RESPAWN INTERRUPTS",
            "deadlines, interrupts and kills, of requests that hang and of ones that end just then",
            quick=True,
        ),
        Configuration(
            "late_of_two",
            "C=2 E=1 R=1 DEADLINES=1 RESPAWN",
            "the same, and the other client's request is next",
        ),
        Configuration(
            "time_up",
            "C=1 E=1 R=2 GIVE_UPS=2 HANGS=1 RESPAWN",
            "callers give up what is queued or runs, also for ever",
            quick=True,
        ),
        Configuration("cancel", "C=1 E=1 R=2 CANCELS=1 HANGS=1 RESPAWN", "another thread cancels"),
        Configuration(
            "cancel_dies",
            "C=1 E=1 R=2 GIVE_UPS=1 EXECUTOR_KILLS=1 RESPAWN BOUNDED_CLIENTS=1 FAILS DEADLINES=1",
            "giving up, a late request, a failing transfer and an executor's death, in any order",
        ),
        Configuration(
            "client_dies",
            "C=1 E=1 R=1 CLIENT_KILLS=1 HEIRS=1 HANGS=1 RESPAWN BOUNDED_EXECUTORS=1",
            "a client dies anywhere; its channel is granted to another",
            ends=True,
        ),
        Configuration(
            "client_dies_of_two",
            "C=2 E=1 R=1 CLIENT_KILLS=1 RESPAWN BOUNDED_EXECUTORS=1",
            "a client dies anywhere, the other's call is served",
        ),
        Configuration(
            "connection_lost",
            "C=1 E=1 R=1 LOST_CONNECTIONS=1 HEIRS=1 RESPAWN",
            "a client's socket closes while its thread goes on; its channel is granted to another",
        ),
        Configuration(
            "supervisor_dies",
            "C=1 E=1 R=2 SUPERVISOR_KILLS=1 BOUNDED_CLIENTS=1",
            "the supervisor dies, and the executors with it",
            quick=True,
        ),
        Configuration(
            "spinner_stopped",
            "C=1 E=2 R=1 SPINS EXECUTOR_STOPS=1 STOPS_SPINNERS",
            "an executor is stopped for good while it spins",
            ends=True,
        ),
        Configuration(
            "stopped",
            "C=1 E=2 R=1 EXECUTOR_STOPS=1 BOUNDED_EXECUTORS=1 BOUNDED_CLIENTS=1",
            "an executor is stopped for good anywhere",
            ends=True,
        ),
        Configuration(
            "large",
            "C=1 E=1 R=2 LARGE GIVE_UPS=1 RESPAWN",
            "a request flows through its ring, and is given up meanwhile",
            ends=True,
        ),
        Configuration(
            "large_stalls",
            "C=2 E=2 R=1 LARGE STALLS",
            "a client stops in the middle of its request; the other's is served by the other executor",
        ),
        Configuration(
            "limit",
            "C=3 E=2 R=1 LIMIT=2 ENDLESS PATIENT",
            "two requests of which one may run, and one that runs for ever",
            races=True,
        ),
        Configuration(
            "limit_dies",
            "C=2 E=2 R=1 LIMIT=2 EXECUTOR_KILLS=1 PATIENT",
            "an executor dies anywhere; its place is free, and the other one looks",
            races=True,
        ),
        Configuration(
            "limit_withdrawn",
            "C=2 E=2 R=1 LIMIT=2 UNDECIDED PATIENT",
            "requests of which one may run, undecided, withdrawn or given up",
            races=True,
        ),
        Configuration(
            "undecided", "C=1 E=1 R=2 UNDECIDED", "requests are withdrawn or announced", quick=True
        ),
        Configuration(
            "undecided_dies",
            "C=2 E=1 R=1 UNDECIDED CLIENT_KILLS=1 RESPAWN BOUNDED_EXECUTORS=1",
            "the same, and a client dies anywhere, also before it has announced",
        ),
        Configuration(
            "marks",
            "C=1 E=1 R=3 REVIEWS=2",
            "channels are unmarked when they are IDLE, while requests are published",
            quick=True,
        ),
        Configuration(
            "marks_of_two",
            "C=2 E=1 R=1 REVIEWS=1",
            "the same with two clients",
        ),
        Configuration(
            "marks_scribbled",
            "C=1 E=1 R=2 REVIEWS=1 SCRIBBLES=1",
            "somebody takes all marks away; the next review finds the requests",
            quick=True,
        ),
        Configuration(
            "marks_die",
            "C=1 E=1 R=1 REVIEWS=2 CLIENT_KILLS=1 HEIRS=1 RESPAWN BOUNDED_EXECUTORS=1",
            "a client dies anywhere, also before it has marked its channel; that is granted to another",
        ),
        Configuration("retires", "C=1 E=1 R=1 RETIREMENTS=1 RESPAWN", "executors are replaced", quick=True),
    )
}

MUTATIONS: Final = (
    Mutation("NO_RECHECK", "calls", "an executor looks once more before it sleeps", quick=True),
    Mutation("NO_RECHECK_BY_CLIENT", "calls", "a client looks once more before it sleeps"),
    Mutation("PUBLISHED_BEFORE_READY", "calls", "`published` grows after READY"),
    Mutation("NO_DRAIN", "many_tokens", "late tokens are drained before a sleep"),
    Mutation("NO_FENCE_WAITER", "fences", "fence between `parked` and the last look", quick=True),
    Mutation("NO_FENCE_RINGER", "fences", "fence between the change and the look at `parked`", quick=True),
    Mutation("OUTCOME_IN_TWO_STEPS", "late", "the outcome is one compare-and-swap", quick=True),
    Mutation("ANSWER_WITHOUT_REAPING", "late", "only who is reaped is answered for"),
    Mutation("NO_WAKE_AFTER_REAP", "other_wakes", "one is woken after each reap", quick=True),
    Mutation("FAILURE_AFTER_STEP", "executor_dies", "the reason stands before FAILED does"),
    Mutation("KILL_WITHOUT_KILLING", "late", "KILLING precedes SIGKILL", quick=True),
    Mutation("NO_GENERATION", "late", "a stop means one generation"),
    Mutation("NO_SERIAL", "late", "an interrupt names its request"),
    Mutation("REPAIR_WITHOUT_SLOT", "other_wakes", "a repair is of a dead executor's own claim", quick=True),
    Mutation("SLOT_REUSED_BEFORE_REPAIR", "executor_dies", "a slot is given away after its repair"),
    Mutation("NO_CANCEL_MESSAGE", "time_up", "the supervisor is told of what was ABANDONED"),
    Mutation(
        "BOUNDED_EXECUTORS=0",
        "client_dies_of_two",
        "parks are bounded: a client dies between two steps of waking",
    ),
    Mutation("BOUNDED_CLIENTS=0", "executor_dies", "parks are bounded: death between DONE and its ring"),
    Mutation(
        "REUSE_BEFORE_CERTAIN",
        "connection_lost",
        "a channel is granted on only when its client is certain to be gone",
    ),
    Mutation("RING_BEFORE_CLOSED", "connection_lost", "a connection is closed before its calls are woken"),
    Mutation("COUNTS_BEFORE_IT_SAYS", "limit", "an executor says what it runs before it counts"),
    Mutation("NO_ROOM_TOLD", "limit", "who makes room and takes up something else wakes another", quick=True),
    Mutation("NO_LOOK_SOON", "limit", "who steps back and sees nobody run looks again soon"),
    Mutation("PLACE_OF_THE_DEAD_KEPT", "limit_dies", "a slot that is made anew holds no place"),
    Mutation("NO_NEWS_AFTER_REAP", "limit_dies", "who is about to sleep looks once more after a reap"),
    Mutation("UNDECIDED_FORGOTTEN", "undecided", "what is taken on is announced", quick=True),
    Mutation("DEFERRED_WAKE_FORGOTTEN", "spinner_stopped", "a wake put off is caught up on", quick=True),
    Mutation("MARKS_BEFORE_READY", "marks", "a client looks at its mark after READY", quick=True),
    Mutation(
        "NO_LOOK_AFTER_UNMARKING", "marks", "the supervisor looks once more after it has unmarked", quick=True
    ),
    Mutation("NO_NEWS_OF_MARKS", "marks_scribbled", "an executor looks again after a mark was missing"),
    Mutation("WAKES_WHOM_IT_SAW", "large_stalls", "who was woken must not be busy with a request"),
)


def missing_tools() -> str:
    """What has to be installed first; empty if nothing."""
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    return (
        f"{' and '.join(missing)} not found; on Debian: apt-get install {' '.join(missing)}"
        if missing
        else ""
    )


def _flags(defines: Sequence[str]) -> list[str]:
    # The last one wins, as a mutation may change a size.
    return [f"-D{each}" for each in {each.partition("=")[0]: each for each in defines}.values()]


def _run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def check(defines: Sequence[str], *, cycles: bool = False, trace: bool = False) -> Result:
    """Explore the model with these definitions.

    Args:
        defines: As for the C preprocessor, without -D.
        cycles: Look for runs without an end as well.
        trace: Have the steps that lead to a counterexample in `detail`.

    Raises:
        RuntimeError: a tool failed, or the search didn't come to an end.
    """
    with tempfile.TemporaryDirectory(prefix="molt-model-") as name:
        folder = Path(name)
        (folder / MODEL.name).write_text(MODEL.read_text())
        _run(["spin", *_flags(defines), "-a", MODEL.name], folder)
        # No label marks progress, so that every cycle counts as one without any.
        kind = ["-DNP"] if cycles else ["-DSAFETY"]
        # Compiling takes longer than most searches do.
        _run(
            [
                "gcc", "-O1", "-w", *kind, "-DCOLLAPSE", "-DVECTORSZ=2048", f"-DMEMLIM={_MEMORY_MB}",
                "-opan", "pan.c",
            ],
            folder,
        )  # fmt: skip
        began = time.monotonic()
        said = _run(["./pan", f"-m{_DEPTH}", "-n", *(["-l"] if cycles else [])], folder)
        seconds = time.monotonic() - began
        states, depth = re.search(r"(\d\S*) states, stored", said), re.search(r"depth reached (\d+)", said)
        if states is None or depth is None or "errors:" not in said or "depth too small" in said:
            raise RuntimeError(f"the search did not come to an end:\n{said}")
        error = re.search(r"^pan:\d+: (.*)", said, re.M)
        verdict, detail = "holds", ""
        if error:
            detail = error[1]
            verdict = next(
                (
                    name
                    for text, name in (
                        ("assertion", "assertion"),
                        ("end state", "deadlock"),
                        ("cycle", "cycle"),
                    )
                    if text in detail
                ),
                detail,
            )
            if trace:
                detail = _run(["spin", *_flags(defines), "-t", "-p", "-g", MODEL.name], folder)
        elif "Search not completed" in said:
            raise RuntimeError(f"the search did not come to an end:\n{said}")
        return Result(verdict, int(float(states[1])), int(depth[1]), seconds, detail)


@dataclass(frozen=True)
class Task:
    """One search, and what has to come of it."""

    name: str
    defines: tuple[str, ...]
    holds: bool
    cycles: bool
    shows: str


#: One ringer: there may be a token that came late, and the one that is due.
_ONLY_MUTATED: Final = {"many_tokens": "C=1 E=1 R=4 MOST_TOKENS=2"}


def tasks(*, quick: bool) -> list[Task]:
    """All searches, or those that take no time."""
    found = []
    for each in CONFIGURATIONS.values():
        if each.quick or not quick:
            found.append(Task(each.name, tuple(each.defines.split()), True, False, each.shows))
        if not quick and (each.quick or each.ends) and not each.races:
            found.append(
                Task(f"{each.name}, cycles", tuple(each.defines.split()), True, True, "all runs end")
            )
    for name, defines in _ONLY_MUTATED.items():
        if not quick:
            found.append(Task(name, tuple(defines.split()), True, False, "no token is left over"))
    for mutation in MUTATIONS:
        if mutation.quick or not quick:
            where = (
                _ONLY_MUTATED.get(mutation.configuration) or CONFIGURATIONS[mutation.configuration].defines
            )
            name = f"{mutation.configuration} - {mutation.flag}"
            found.append(Task(name, (*where.split(), mutation.flag), False, False, mutation.rule))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for. 0: everything is as it should be."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only searches whose names contain one of these")
    parser.add_argument("--quick", action="store_true", help="only what takes a few seconds")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="searches at once (%(default)s)"
    )
    parser.add_argument("--trace", metavar="NAME", help="print the steps of this search's counterexample")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    options = parser.parse_args(arguments)
    if wrong := missing_tools():
        print(f"check.py: {wrong}", file=sys.stderr)
        return 2
    chosen = tasks(quick=options.quick)
    if options.trace:
        task = next((each for each in chosen if each.name == options.trace), None)
        if task is None:
            parser.error(f"there is no search {options.trace!r}; see --list")
        print(check(task.defines, cycles=task.cycles, trace=True).detail or "it holds")
        return 0
    if options.names:
        chosen = [each for each in chosen if any(name in each.name for name in options.names)]
    if options.list or not chosen:
        print("\n".join(f"{each.name:45} {each.shows}" for each in chosen))
        return 0 if chosen else 2
    print(f"{'search':45} {'found':10} {'states':>10} {'depth':>6} {'s':>6}  rule, or what it shows")
    wrongs = []
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {pool.submit(check, each.defines, cycles=each.cycles): each for each in chosen}
        for number, done in enumerate(as_completed(running), 1):
            task = running[done]
            try:
                found = done.result()
            except RuntimeError as exc:
                found = Result("no result", 0, 0, 0.0, str(exc))
                print(exc, file=sys.stderr)
            right = (found.verdict == "holds") if task.holds else found.verdict in ("assertion", "deadlock")
            if not right:
                wrongs.append(task.name)
            mark = (
                ""
                if right
                else "   <-- WRONG: " + ("it must hold" if task.holds else "a counterexample was expected")
            )
            print(
                f"{task.name:45} {found.verdict:10} {found.states:>10} {found.depth:>6} {found.seconds:>6.1f}  "
                f"{task.shows}{mark}  [{number}/{len(chosen)}]",
                flush=True,
            )
    if wrongs:
        print(f"check.py: not as it should be: {', '.join(wrongs)}", file=sys.stderr)
    return 1 if wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
