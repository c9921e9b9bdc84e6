"""Runs as people and as programs read them."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.v1 import payload_pb2, run_pb2

JSON_TYPES: Final = ("", "application/json")
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


def status_name(run: run_pb2.Run) -> str:
    """The run's status without its prefix."""
    return enum_name(run_pb2.RunStatus, run.status, "RUN_STATUS_")


def reason_name(run: run_pb2.Run) -> str:
    """The reason of the run's status without its prefix; empty for none. A value we do not know is its number."""
    return enum_name(run_pb2.RunStatusReason, run.status_reason, "RUN_STATUS_REASON_") if run.status_reason else ""


def enum_name(enum: Any, value: int, prefix: str) -> str:
    """The name of an enum's value without its prefix; its number when a newer scheduler sent one we do not know."""
    return str(enum.Name(value)).removeprefix(prefix) if value in enum.values() else str(value)


def is_final(run: run_pb2.Run) -> bool:
    """Whether the run has ended."""
    return run.status >= run_pb2.RUN_STATUS_COMPLETED


def value_of(payload: payload_pb2.Payload) -> Any:
    """A payload as JSON; one of another type as an object that says what it is."""
    if payload.content_type in JSON_TYPES and not payload.codec:
        return json.loads(payload.data) if payload.data else None
    return {
        "content_type": payload.content_type,
        "codec": payload.codec,
        "base64": base64.b64encode(payload.data).decode(),
    }


def run_document(run: run_pb2.Run, *, full: bool = False) -> dict[str, Any]:
    """A run as one JSON object. `full` adds what the FULL view has."""
    document: dict[str, Any] = {
        "id": run.id,
        "task": run.task_id,
        "status": status_name(run),
        "reason": reason_name(run),
        "attempt": run.attempt,
        "max_attempts": run.max_attempts,
        "recoveries": run.recoveries,
        "queue": run.queue,
        "tags": list(run.tags),
        "parent": run.parent_run_id or None,
        "worker": run.worker or None,
        "created_at": _instant(run, "created_at"),
        "started_at": _instant(run, "started_at"),
        "ended_at": _instant(run, "ended_at"),
        "due_at": _instant(run, "due_at"),
        "metadata": json.loads(run.metadata) if run.metadata else {},
        "output": value_of(run.output) if run.HasField("output") else None,
        "error": error_document(run.error) if run.HasField("error") else None,
    }
    if full:
        document["payload"] = value_of(run.payload)
        document["attempts"] = [
            {
                "number": attempt.number,
                "state": enum_name(run_pb2.AttemptState, attempt.state, "ATTEMPT_STATE_"),
                "worker": attempt.worker,
                "started_at": _instant(attempt, "started_at"),
                "ended_at": _instant(attempt, "ended_at"),
                "error": error_document(attempt.error) if attempt.HasField("error") else None,
            }
            for attempt in run.attempts
        ]
        document["checkpoints"] = [
            {
                "seq": checkpoint.seq,
                "kind": enum_name(run_pb2.CheckpointKind, checkpoint.kind, "CHECKPOINT_KIND_"),
                "name": checkpoint.name,
                "status": enum_name(run_pb2.CheckpointStatus, checkpoint.status, "CHECKPOINT_STATUS_"),
                "attempt": checkpoint.attempt,
                "subject": checkpoint.subject_id or None,
                "location": checkpoint.location,
            }
            for checkpoint in run.checkpoints
        ]
        document["children"] = list(run.child_run_ids)
    return document


def error_document(error: payload_pb2.TaskError) -> dict[str, Any]:
    """A task's error as one JSON object."""
    return {
        "kind": enum_name(payload_pb2.TaskErrorKind, error.kind, "TASK_ERROR_KIND_"),
        "type": error.type,
        "message": error.message,
        "stack": error.stack,
        "retryable": error.retryable,
    }


def print_json(document: Any) -> None:
    """One document on one line."""
    print(json.dumps(document, ensure_ascii=False), flush=True)


def print_runs(runs: list[run_pb2.Run], now: datetime) -> None:
    """Runs as a table."""
    table = Table("run", "task", "status", "attempt", "recoveries", "created", "took", box=None, pad_edge=False)
    for run in runs:
        started = run.created_at.ToDatetime(UTC)
        ended = run.ended_at.ToDatetime(UTC) if run.HasField("ended_at") else now
        table.add_row(
            run.id,
            Text(run.task_id),
            _status_text(run),
            f"{run.attempt}/{run.max_attempts}",
            str(run.recoveries),
            f"{started.astimezone():%Y-%m-%d %H:%M:%S}",
            _duration(ended - started),
        )
    # Ids are to be copied: a table that does not fit is cut by the terminal, not by us.
    console = Console()
    console.print(table, soft_wrap=True, crop=False)


def print_run(run: run_pb2.Run, sentence: str) -> None:
    """One run with its attempts and checkpoints."""
    console = Console(highlight=False, soft_wrap=True)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("run", run.id)
    facts.add_row("task", Text(run.task_id))
    facts.add_row("status", _status_text(run))
    if sentence:
        facts.add_row("why", Text(sentence))
    facts.add_row("attempt", f"{run.attempt} of {run.max_attempts}, recoveries {run.recoveries}")
    for label, field in (
        ("created", "created_at"),
        ("started", "started_at"),
        ("ended", "ended_at"),
        ("due", "due_at"),
    ):
        if instant := _instant(run, field):
            facts.add_row(label, instant)
    if run.parent_run_id:
        facts.add_row("parent", run.parent_run_id)
    if run.worker:
        facts.add_row("worker", Text(run.worker))
    if run.tags:
        facts.add_row("tags", Text(", ".join(run.tags)))
    facts.add_row("payload", Text(json.dumps(value_of(run.payload), ensure_ascii=False)))
    if run.metadata not in (b"", b"{}"):
        facts.add_row("metadata", Text(run.metadata.decode()))
    if run.HasField("output"):
        facts.add_row("output", Text(json.dumps(value_of(run.output), ensure_ascii=False)))
    if run.HasField("error"):
        facts.add_row("error", Text(f"{run.error.type}: {run.error.message}".removeprefix(": "), style="red"))
    console.print(facts)
    if run.attempts:
        attempts = Table("attempt", "state", "worker", "started", "took", "error", box=None, pad_edge=False)
        for one in run.attempts:
            took = one.ended_at.ToDatetime() - one.started_at.ToDatetime() if one.HasField("ended_at") else None
            attempts.add_row(
                str(one.number),
                enum_name(run_pb2.AttemptState, one.state, "ATTEMPT_STATE_"),
                Text(one.worker),
                _instant(one, "started_at") or "",
                _duration(took) if took is not None else "",
                Text(one.error.message),
            )
        console.print("\n", attempts, sep="")
    if run.checkpoints:
        checkpoints = Table("checkpoint", "kind", "name", "status", "subject", "where", box=None, pad_edge=False)
        for checkpoint in run.checkpoints:
            checkpoints.add_row(
                str(checkpoint.seq),
                enum_name(run_pb2.CheckpointKind, checkpoint.kind, "CHECKPOINT_KIND_"),
                Text(checkpoint.name),
                enum_name(run_pb2.CheckpointStatus, checkpoint.status, "CHECKPOINT_STATUS_"),
                checkpoint.subject_id,
                Text(checkpoint.location),
            )
        console.print("\n", checkpoints, sep="")
    if run.HasField("error") and run.error.stack:
        console.print("\n", Text(run.error.stack), sep="")


def state_text(run: run_pb2.Run) -> str:
    """The state of a run on one line, for `runs watch`."""
    parts = [_status_text(run).plain, f"attempt {run.attempt}"]
    if run.recoveries:
        parts.append(f"recoveries {run.recoveries}")
    if run.metadata not in (b"", b"{}"):
        parts.append(run.metadata.decode())
    return "  ".join(parts)


def _status_text(run: run_pb2.Run) -> Text:
    name = status_name(run)
    reason = reason_name(run)
    return Text(f"{name}/{reason}" if reason else name, style=STYLES.get(name, ""))


def _instant(message: Any, field: str) -> str | None:
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _duration(length: timedelta) -> str:
    seconds = max(0.0, length.total_seconds())
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")]
    shown = [f"{value}{unit}" for value, unit in parts if value]
    return "".join(shown[:2])
