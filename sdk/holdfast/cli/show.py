"""Runs as people and as programs read them."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.errors import ErrorInfo
from holdfast.queues import QueueState
from holdfast.run import Run
from holdfast.runs import LogLine
from holdfast.schedule import Schedule

STYLES: Final = {
    "COMPLETED": "green",
    "FAILED": "red",
    "CRASHED": "red",
    "TIMED_OUT": "red",
    "EXPIRED": "yellow",
    "CANCELED": "yellow",
    "EXECUTING": "cyan",
    "WAITING": "blue",
}
UNLIMITED: Final = 100_000
"""Columns; wider than anything that is printed."""

ONLY_IN_FULL: Final = ("payload", "attempts", "checkpoints", "child_run_ids")


def run_document(run: Run, *, full: bool = False) -> dict[str, Any]:
    """A run as one JSON object. `full` keeps what only a run retrieved in full has."""
    document = dataclasses.asdict(run)
    if not full:
        for name in ONLY_IN_FULL:
            del document[name]
    return document


def log_document(line: LogLine) -> dict[str, Any]:
    """A line of a run's log as one JSON object."""
    return dataclasses.asdict(line)


def log_text(line: LogLine) -> str:
    """A line of a run's log, for people."""
    fields = "".join(f" {name}={value!r}" for name, value in line.fields.items())
    return f"{line.at.astimezone():%H:%M:%S}  {line.level:<7}  {line.message}{fields}"


def print_json(document: Any) -> None:
    """One document on one line."""
    print(json.dumps(document, ensure_ascii=False, default=_plain), flush=True)


def print_runs(runs: list[Run]) -> None:
    """Runs as a table."""
    table = Table("run", "task", "status", "attempt", "recoveries", "created", "took", box=None, pad_edge=False)
    for run in runs:
        table.add_row(
            run.id,
            Text(run.task_id),
            _status_text(run),
            f"{run.attempt}/{run.max_attempts}",
            str(run.recoveries),
            f"{run.created_at.astimezone():%Y-%m-%d %H:%M:%S}" if run.created_at else "",
            _took(run.created_at, run.ended_at or datetime.now(UTC)),
        )
    _print(table)


def queue_document(queue: QueueState) -> dict[str, Any]:
    """A queue as one JSON object."""
    document = dataclasses.asdict(queue)
    if queue.rate_period is not None:
        document["rate_period"] = queue.rate_period.total_seconds()
    return document


def print_queues(queues: list[QueueState]) -> None:
    """Queues as a table."""
    table = Table("queue", "limits", "waiting", "executing", "", box=None, pad_edge=False)
    for queue in queues:
        marks = [name for name, is_so in (("paused", queue.paused), ("overridden", queue.overridden)) if is_so]
        table.add_row(Text(queue.name), _limits(queue), str(queue.queued), str(queue.executing), ", ".join(marks))
    _print(table)


def _limits(queue: QueueState) -> str:
    parts = []
    if queue.concurrency_limit:
        parts.append(f"{queue.concurrency_limit} per key")
    if queue.total_concurrency_limit:
        parts.append(f"{queue.total_concurrency_limit} in all")
    if queue.rate_limit and queue.rate_period is not None:
        parts.append(f"{queue.rate_limit} starts in {queue.rate_period.total_seconds():g} s")
    if queue.depth_limit:
        parts.append(f"{queue.depth_limit} queued")
    return ", ".join(parts) or "none"


def schedule_document(schedule: Schedule) -> dict[str, Any]:
    """A schedule as one JSON object."""
    return dataclasses.asdict(schedule)


def print_schedules(schedules: list[Schedule]) -> None:
    """Schedules as a table."""
    table = Table("schedule", "task", "cron", "zone", "next", "last", "skipped", "from", box=None, pad_edge=False)
    for one in schedules:
        table.add_row(
            one.id,
            Text(one.task_id),
            Text(one.cron),
            one.timezone,
            _instant(one.next_at) if one.active else Text("not active", style="yellow"),
            _instant(one.last_at),
            str(one.skipped),
            "code" if one.declared else Text(one.deduplication_key),
        )
    _print(table)


def print_schedule(schedule: Schedule) -> None:
    """One schedule."""
    facts = Table.grid(padding=(0, 2))
    for label, value in (
        ("schedule", schedule.id),
        ("task", schedule.task_id),
        ("cron", f"{schedule.cron}  ({schedule.timezone})"),
        ("declared", "in code" if schedule.declared else ""),
        ("key", schedule.deduplication_key),
        ("external id", schedule.external_id),
        ("policies", f"misfire {schedule.misfire}, overlap {schedule.overlap}"),
        ("options", _json(schedule.options) if schedule.options else ""),
        ("next", _instant(schedule.next_at) if schedule.active else "not active"),
        ("last", f"{_instant(schedule.last_at)}  {schedule.last_run_id}".strip()),
        ("waiting", ", ".join(map(_instant, schedule.waiting))),
        ("skipped", str(schedule.skipped)),
        ("last skipped", f"{_instant(schedule.last_skipped_at)}  {schedule.last_skip_reason}".strip()),
    ):
        if value:
            facts.add_row(label, Text(value))
    _print(facts)


def print_run(run: Run, sentence: str) -> None:
    """One run with its attempts and checkpoints; `sentence` says why it stands where it stands."""
    facts = Table.grid(padding=(0, 2))
    for label, value in (
        ("run", run.id),
        ("task", run.task_id),
        ("status", _status_text(run)),
        ("why", sentence),
        ("attempt", f"{run.attempt} of {run.max_attempts}, recoveries {run.recoveries}"),
        ("created", _instant(run.created_at)),
        ("started", _instant(run.started_at)),
        ("ended", _instant(run.ended_at)),
        ("due", _instant(run.due_at)),
        ("parent", run.parent_run_id),
        ("worker", run.worker),
        ("tags", ", ".join(run.tags)),
        ("payload", _json(run.payload)),
        ("metadata", _json(run.metadata) if run.metadata else ""),
        ("output", _json(run.output) if run.is_final and run.error is None else ""),
        ("error", Text(str(run.error), style="red") if run.error else ""),
    ):
        if value:
            facts.add_row(label, value if isinstance(value, Text) else Text(value))
    _print(facts)
    if run.attempts:
        attempts = Table("attempt", "state", "worker", "started", "took", "error", box=None, pad_edge=False)
        for one in run.attempts:
            attempts.add_row(
                str(one.number),
                one.state,
                Text(one.worker),
                _instant(one.started_at),
                _took(one.started_at, one.ended_at),
                Text(_error_of_attempt(one.error, run.error)),
            )
        _print("", attempts)
    if run.checkpoints:
        checkpoints = Table("checkpoint", "kind", "name", "status", "subject", "where", box=None, pad_edge=False)
        for each in run.checkpoints:
            checkpoints.add_row(
                str(each.seq), each.kind, Text(each.name), each.status, each.subject_id, Text(each.location)
            )
        _print("", checkpoints)
    if run.error and run.error.stack:
        _print("", Text(run.error.stack))


def _error_of_attempt(error: ErrorInfo | None, end: ErrorInfo | None) -> str:
    """An attempt's error; the one that the run ended with is printed once."""
    if error is None:
        return ""
    return "as above" if end is not None and str(error) == str(end) else str(error)


def state_text(run: Run) -> str:
    """The state of a run on one line, for `runs watch`."""
    parts = [_status_text(run).plain, f"attempt {run.attempt}"]
    if run.recoveries:
        parts.append(f"recoveries {run.recoveries}")
    if run.metadata:
        parts.append(_json(run.metadata))
    return "  ".join(parts)


def _print(*parts: Any) -> None:
    # Ids are there to be copied: a line that does not fit is wrapped by the terminal, never cut by us.
    console = Console(highlight=False)
    unlimited = console.options.update(max_width=UNLIMITED)
    console.width = max(console.width, *(console.measure(part, options=unlimited).maximum for part in parts))
    console.print(*parts, sep="\n")


def _status_text(run: Run) -> Text:
    text = f"{run.status}/{run.status_reason}" if run.status_reason else str(run.status)
    return Text(text, style=STYLES.get(run.status, ""))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return _instant(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _instant(value: datetime | None) -> str:
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z") if value else ""


def _took(start: datetime | None, end: datetime | None) -> str:
    if start is None or end is None:
        return ""
    seconds = max(timedelta(), end - start).total_seconds()
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    shown = [f"{value}{unit}" for value, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if value]
    return "".join(shown[:2])
