"""How ``molt-worker status`` shows a snapshot: as lines of text, or as a table for a live display."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from molt_worker.cli.observer import PoolPlace
from molt_worker.supervisor.shm.snapshot import EntryStatus, ExecutorStatus, Snapshot, quantiles

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES: Final = {"busy": "green", "stopping": "red", "starting": "yellow"}
_COLUMNS: Final = ("executor", "pid", "state", "entry", "for", "deadline in", "calls", "memory")
_ENTRY_COLUMNS: Final = ("entry", "priority", "takes", "running", "queued", "refused")
#: Columns of figures, which stand on the right.
_RIGHT: Final = frozenset(
    {"executor", "pid", "for", "deadline in", "calls", "memory", "takes", "running", "queued", "refused"}
)


def facts(pool: PoolPlace, now: Snapshot, before: Snapshot | None = None) -> list[tuple[str, str]]:
    """The lines about a pool as a whole: names and texts. An earlier snapshot gives also rates and times since then."""
    states = [executor.state for executor in now.executors]
    ready = len(states) - states.count("starting")
    busy = ready - states.count("idle")
    outcomes = ", ".join(f"{name} {count:,}" for name, count in now.outcomes.items() if count)
    memory, spin, restarts = now.memory, now.spin, now.restarts
    life = f"{now.state}  version {now.version}  pid {now.pid}  up {duration(now.uptime_s)}"
    spinners = f"{_number(spin['clients'], 'client')} and {_number(spin['executors'], 'executor')} at a time"
    shown = [
        ("pool", f"{pool.name}  {life}"),
        ("socket", pool.path),
        ("log", now.log or "not known"),
        ("exports", f"{now.exports['count']}, {now.exports['compiled']} of them compiled"),
        ("executors", f"{busy} busy, {ready} of {now.pool_size} ready"),
        ("queue", f"{now.queue['depth']} of {now.queue['capacity']} places, {now.in_flight} in flight"),
        ("clients", str(now.clients)),
        ("calls", f"{now.calls:,}" + (f"  ({outcomes})" if outcomes else "")),
    ]
    if any(now.shed.values()):
        shown.append(("refused", ", ".join(f"{why} {count:,}" for why, count in now.shed.items() if count)))
    if before is not None:
        seconds = (now.taken_ns - before.taken_ns) / 1e9
        shown.append(("calls/s", f"{(now.calls - before.calls) / seconds:,.1f}"))
    shown += [
        ("queue time", _spread(now.queue_counts, before.queue_counts if before else None)),
        ("exec time", _spread(now.exec_counts, before.exec_counts if before else None)),
        (
            "restarts",
            f"{restarts['executor_starts']} executors started, {restarts['executor_deaths']} died, "
            f"{restarts['recycled']} recycled, {restarts['reloads']} reloads",
        ),
        (
            "memory",
            f"arena {size(memory['arena_bytes'])}, supervisor {size(memory['supervisor_rss_bytes'])}, "
            f"fork server {size(memory['forkserver_rss_bytes'])}, executors {size(memory['executors_rss_bytes'])}",
        ),
        ("spin", f"up to {spin['limit_us']} us, {spinners}" if spin["limit_us"] else "never"),
    ]
    if now.bad_frames:
        shown.append(("bad frames", f"{now.bad_frames:,}"))
    return shown


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _spread(counts: Sequence[int], before: Sequence[int] | None) -> str:
    """p50, p95 and p99 of a histogram, and of what has come to it since, if anything has."""
    text = _quantiles(counts)
    if before is not None:
        since = [max(0, a - b) for a, b in zip(counts, before, strict=True)]
        text += f"   now: {_quantiles(since)}"
    return text


def _quantiles(counts: Sequence[int]) -> str:
    if not any(counts):
        return "-"
    return ", ".join(f"{name} {duration(us / 1e6)}" for name, us in quantiles(counts).items())


def row(executor: ExecutorStatus) -> list[str]:
    """An executor's line, in the order of the columns."""
    running = executor.running
    entry = for_s = left = ""
    if running is not None:
        entry = "?" if running.entry is None else _printable(running.entry)
        for_s = "" if running.for_ms is None else duration(running.for_ms / 1000)
        left = "" if running.deadline_ms is None else duration(running.deadline_ms / 1000)
    numbers = [str(executor.number), str(executor.pid)]
    return [*numbers, executor.state, entry, for_s, left, f"{executor.calls:,}", size(executor.rss_bytes)]


def entry_row(name: str, entry: EntryStatus) -> list[str]:
    """An entrypoint's line, in the order of the columns."""
    running = str(entry.running) if entry.limit is None else f"{entry.running} of {entry.limit}"
    usual = duration(entry.usual_ms / 1000) if entry.usual_ms else "-"
    return [_printable(name), entry.priority, usual, running, str(entry.queued), f"{entry.refused:,}"]


def as_text(pool: PoolPlace, snapshot: Snapshot) -> str:
    """A pool as lines of plain text."""
    shown = facts(pool, snapshot)
    width = max(len(name) for name, _ in shown)
    lines = [f"{name:<{width}}  {text}" for name, text in shown]
    for columns, rows in _tables(snapshot):
        table = [list(columns), *rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines.append("")
        for cells in table:
            padded = [
                cell.rjust(width) if name in _RIGHT else cell.ljust(width)
                for name, cell, width in zip(columns, cells, widths, strict=True)
            ]
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _tables(snapshot: Snapshot) -> Iterator[tuple[tuple[str, ...], list[list[str]]]]:
    """Columns and rows: of the executors, and of the entrypoints of which there is something to tell."""
    yield _COLUMNS, [row(executor) for executor in snapshot.executors]
    if snapshot.entries:
        yield _ENTRY_COLUMNS, [entry_row(name, entry) for name, entry in snapshot.entries.items()]


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 1e-3:
        text = f"{seconds * 1e6:.0f} us"
    elif seconds < 1:
        text = f"{seconds * 1e3:.1f} ms"
    elif seconds < 120:
        text = f"{seconds:.1f} s"
    elif seconds < 7200:
        text = f"{seconds / 60:.0f} min"
    elif seconds < 172_800:
        text = f"{seconds / 3600:.1f} h"
    else:
        text = f"{seconds / 86_400:.1f} d"
    return sign + text


def size(count: int | None) -> str:
    """Bytes in MiB."""
    return "-" if count is None else f"{count / 2**20:.1f} MiB"


def _printable(text: str) -> str:
    """A name without what could move a terminal's cursor; clients may send any."""
    return "".join(character if character.isprintable() else "?" for character in text)


def as_table(pool: PoolPlace, now: Snapshot, before: Snapshot | None) -> RenderableType:
    """The same for `rich`, with rates and what came since `before`."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    above = Table.grid(padding=(0, 2))
    above.add_column(style="bold")
    for name, text in facts(pool, now, before):
        above.add_row(name, Text(text))
    parts: list[RenderableType] = [above]
    for columns, rows in _tables(now):
        below = Table(box=None, padding=(0, 1), header_style="bold")
        for name in columns:
            below.add_column(name, justify="right" if name in _RIGHT else "left", no_wrap=True)
        for cells in rows:
            below.add_row(*map(Text, cells), style=_STYLES.get(cells[2]) if columns is _COLUMNS else None)
        parts += ["", below]
    return Group(*parts)
