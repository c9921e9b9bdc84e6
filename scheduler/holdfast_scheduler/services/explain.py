"""Why a run does not progress, in one exact sentence."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from holdfast.v1.payload_pb2 import TaskError
from holdfast_scheduler import ids, model
from holdfast_scheduler.admission import Room
from holdfast_scheduler.reads import Situation

_WAITS_NAMED = 3  # pending waitpoints that the sentence names one by one


def now_us() -> int:
    """This machine's clock. It only tells people when a rate limit admits a start again, it decides nothing."""
    return time.time_ns() // 1000


def explain(situation: Situation, workers: int, now: int) -> str:
    """The sentence. `workers` is the number of workers connected here that have the run's task."""
    row = situation.row
    status = row.status
    if model.is_final(status):
        return f"It ended {model.STATUS_NAMES[status]} at {_at(row.ended_at)}{_because(row.error)}."
    if status == model.DELAYED:
        return _delayed(situation)
    if status == model.QUEUED:
        return _queued(situation, workers, now)
    if status == model.CANCELING:
        return f"Its cancellation was accepted; {_worker(row)} cleans up until {_at(row.wake_at)} at the latest."
    if status == model.WAITING:
        return f"It waits for {_waits(situation.pending)}."
    sentence = f"{_worker(row)} executes attempt {row.attempt} of {row.max_attempts} since {_at(row.started_at)}"
    if situation.pending:
        sentence += f" while it waits for {_waits(situation.pending)}"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _delayed(situation: Situation) -> str:
    row = situation.row
    at = _at(row.due_at)
    if row.reason == model.BACKING_OFF:
        return (
            f"Attempt {row.attempt} of {row.max_attempts} failed{_because(situation.last_error)}; "
            f"the next one is queued at {at}."
        )
    if row.reason == model.RECOVERING:
        why = _because(situation.last_error)
        return f"Its worker was lost (recovery {row.recoveries}){why}; it is queued again at {at}."
    if row.reason == model.DEBOUNCED:
        return f"It is delayed until {at} to be merged with triggers of the same debounce key."
    return f"It is delayed until {at}, as its trigger asked."


def _queued(situation: Situation, workers: int, now: int) -> str:
    row = situation.row
    why = {
        model.RESUMING: "its wait is over and it resumes",
        model.RECOVERING: "its worker was lost",
        model.RELEASED: "its worker handed it back",
    }.get(row.reason, "")
    because = f" because {why}" if why else ""
    limit = _limit(situation, workers, now)
    if row.reason == model.RESUMING and row.session_worker:
        head = f"It is queued {limit or f'in {row.queue!r}'}{because}"
        return f"{head}, for the next free slot of {_worker(row)}, which holds its body, until {_at(row.wake_at)}."
    if limit:
        return f"It is queued {limit}{because}."
    head = f"It is queued in {row.queue!r}{because}"
    workers += situation.queue.workers_elsewhere
    if not workers:
        return f"{head}, and no connected worker has the task {row.task!r}."
    many = f"{workers} connected worker{'s have' if workers > 1 else ' has'} its task"
    if situation.ahead:
        runs = "1 run is" if situation.ahead == 1 else f"{situation.ahead} runs are"
        return f"{head}; {many}, every slot is taken, and {runs} before it."
    return f"{head}, and it is the next one; {many}, and every slot is taken."


def _limit(situation: Situation, workers: int, now: int) -> str:
    """Where it is queued, and by what the queue holds it back; nothing when that is not what it waits for."""
    row, facts = situation.row, situation.queue
    queue = facts.queue
    reason = facts.why(row.lane, now, workers)
    if queue is None or reason not in (model.PAUSED, model.QUEUE_LIMIT, model.RATE_LIMIT):
        return ""
    limits = queue.limits
    if reason == model.PAUSED:
        return f"in {row.queue!r}, which is paused since {_at(queue.paused_at)}"
    if reason == model.RATE_LIMIT:
        opens = Room(queue, {}, now).opens_at()
        rate = f"limit {limits.rate} starts in {limits.period_us / 1e6:g} s, the next one at {_at(opens)}"
        return f"{_behind(situation.ahead)} on queue {row.queue!r}, {rate}"
    if limits.lane and facts.lane_executing >= limits.lane:
        if not row.lane:
            return f"{_behind(situation.ahead_in_lane)} on queue {row.queue!r}, limit {limits.lane}"
        of_key = f"with the key {row.lane!r} on queue {row.queue!r}"
        return f"{_behind(situation.ahead_in_lane)} {of_key}, limit {limits.lane} for each key"
    return f"{_behind(situation.ahead)} on queue {row.queue!r}, limit {limits.total}"


def _behind(count: int) -> str:
    return "behind 1 other" if count == 1 else f"behind {count} others" if count else "as the next one"


def _waits(pending: list[Any]) -> str:
    named = [_wait(record) for record in pending[:_WAITS_NAMED]]
    if len(pending) > _WAITS_NAMED:
        named.append(f"{len(pending) - _WAITS_NAMED} more")
    if not named:
        return "nothing that is recorded"
    return named[0] if len(named) == 1 else f"the first of: {'; '.join(named)}"


def _wait(record: Any) -> str:
    kind = record.kind
    if kind == model.WAIT:
        text = f"{_at(record.due_at)}"
    elif kind in (model.CHILD, model.TRIGGER):
        status = model.STATUS_NAMES.get(record.child_status or 0, "unknown")
        text = f"its child {ids.run_text(record.subject)} of {record.name!r}, which is {status}"
    elif kind in (model.BATCH, model.BATCH_TRIGGER):
        text = f"{record.remaining} more runs of its batch {ids.to_text(ids.BATCH, record.subject)}"
    else:
        text = f"the token {ids.to_text(ids.TOKEN, record.subject)}"
    if kind != model.WAIT and record.due_at is not None:
        text += f", at the latest until {_at(record.due_at)}"
    return f"{text} (asked at {record.location})" if record.location else text


def _worker(row: Any) -> str:
    return f"worker {row.session_worker!r}" if row.session_worker else "its worker"


def _because(error: bytes | None) -> str:
    if not error:
        return ""
    parsed = TaskError.FromString(error)
    what = f"{parsed.type}: {parsed.message}" if parsed.type else parsed.message
    first_line = what.strip().partition("\n")[0].rstrip(".")
    return f" ({first_line})" if first_line else ""


def _at(micros: int | None) -> str:
    if micros is None:
        return "an instant that is not recorded"
    return datetime.fromtimestamp(micros / 1_000_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
