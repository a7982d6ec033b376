"""Which modules are mutated, and the tests that must notice: their own unit files, then what proves their promise."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]

#: What decides outcomes, hand-over, identity and security.
PATTERNS: Final = (
    *(f"molt_accel/{name}.py" for name in ("errors", "call", "options", "codec", "waits")),
    *(
        f"molt_accel/django/{name}.py"
        for name in ("decorator", "payload", "responses", "reporting", "travel")
    ),
    "molt_accel/forms/*.py",
    *("molt_accel/process/identity.py", "molt_accel/process/role.py", "molt_accel/process/testdb.py"),
    *(f"molt_accel/ipc/{name}.py" for name in ("frame", "outcomes", "control", "stream")),
    *(f"molt_accel/ipc/shm/{name}.py" for name in ("attach", "layout", "arena")),
    *("molt_accel/transports/**/*.py", "molt_worker/supervisor/**/*.py", "molt_worker/processes/**/*.py"),
    *("molt_worker/compile/record.py", "molt_worker/compile/plan.py"),
    *("molt_worker/entrypoints/runner.py", "molt_worker/entrypoints/project.py"),
)

#: By the beginning of a module's path: files that are run where the unit files notice nothing. The longest one counts.
_PROMISES: Final = {
    "molt_accel/": ("tests/integration/test_outcomes.py",),
    "molt_accel/call": (
        "tests/integration/test_outcomes.py",
        "tests/integration/test_cancel.py",
        "tests/integration/test_waiting.py",
        "tests/integration/test_shared_queue.py",
    ),
    "molt_accel/django/": (
        "tests/integration/django/test_offload.py",
        "tests/integration/django/test_offload_errors.py",
        "tests/integration/django/test_offload_settings.py",
    ),
    "molt_accel/django/payload": (
        "tests/integration/django/test_offload.py",
        "tests/integration/django/test_everywhere.py",
    ),
    "molt_accel/django/reporting": (
        "tests/integration/django/test_offload_errors.py",
        "tests/integration/django/test_answers.py",
    ),
    "molt_accel/django/responses": (
        "tests/integration/django/test_offload.py",
        "tests/integration/django/test_answers.py",
    ),
    "molt_accel/django/travel": ("tests/integration/django/test_everywhere.py",),
    "molt_accel/forms/": ("tests/integration/test_outcomes.py", "tests/integration/test_typed.py"),
    "molt_accel/forms/response": (
        "tests/integration/django/test_everywhere.py",
        "tests/integration/django/test_answers.py",
    ),
    "molt_accel/codec": ("tests/integration/test_payloads.py",),
    "molt_accel/process/identity": ("tests/integration/test_pool_name.py",),
    "molt_accel/process/role": ("tests/integration/test_nesting.py",),
    "molt_accel/process/testdb": ("tests/integration/django/test_testdb.py",),
    "molt_accel/waits": (
        "tests/integration/test_concurrency.py",
        "tests/integration/test_no_threads.py",
        "tests/integration/test_waiting.py",
    ),
    "molt_accel/ipc/control": ("tests/integration/test_shared_clients.py",),
    "molt_accel/ipc/shm/": ("tests/integration/test_shared_clients.py",),
    "molt_accel/transports/auto": ("tests/integration/test_auto.py",),
    "molt_accel/transports/forks": ("tests/integration/django/test_fork.py",),
    "molt_accel/transports/launcher": ("tests/integration/test_shared_pool.py",),
    "molt_accel/transports/shm/": (
        "tests/integration/test_cancel.py",
        "tests/integration/test_shared_clients.py",
        "tests/integration/test_outcomes.py",
    ),
    "molt_worker/compile/": ("tests/unit/molt_worker/compile/test_compiler.py",),
    "molt_worker/entrypoints/": ("tests/integration/test_outcomes.py",),
    "molt_worker/entrypoints/project": (
        "tests/integration/django/test_project.py",
        "tests/integration/django/test_testdb.py",
    ),
    "molt_worker/entrypoints/runner": (
        "tests/integration/test_outcomes.py",
        "tests/integration/test_cancel.py",
        "tests/integration/test_deadlines.py",
        "tests/integration/test_left_state.py",
    ),
    "molt_worker/processes/": (
        "tests/integration/test_outcomes.py",
        "tests/system/crash/test_executors.py",
    ),
    "molt_worker/supervisor/": ("tests/integration/test_stop.py",),
    "molt_worker/supervisor/shm/": (
        "tests/integration/test_shared_executors.py",
        "tests/system/hostile/test_repair.py",
        "tests/integration/test_deadlines.py",
    ),
    "molt_worker/supervisor/stdio/": (
        "tests/integration/test_outcomes.py",
        "tests/integration/test_queueing.py",
        "tests/integration/test_stop.py",
    ),
}


def modules() -> list[str]:
    """The modules' paths, but for those that hold no code, and so have no unit files."""
    found = {str(path.relative_to(ROOT)) for pattern in PATTERNS for path in ROOT.glob(pattern)}
    return sorted(module for module in found if own_tests(module))


def own_tests(module: str) -> tuple[str, ...]:
    """The unit files that mirror a module; `tests/unit/test_mirror.py` sees to it that there are some."""
    path = Path(module)
    folder = ROOT / "tests" / "unit" / path.parent
    files = [*folder.glob(f"test_{path.stem}.py"), *folder.glob(f"test_{path.stem}_*.py")]
    return tuple(sorted(str(file.relative_to(ROOT)) for file in files))


def promises(module: str) -> tuple[str, ...]:
    """The files that prove what the module promises to others."""
    return _PROMISES[max((start for start in _PROMISES if module.startswith(start)), key=len)]
