"""Why a run does not progress, in one exact sentence; and how it has spent its life so far."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from holdfast.v1.payload_pb2 import TaskError
from holdfast_scheduler import ids, model
from holdfast_scheduler.admission import Room
from holdfast_scheduler.reads import Situation

_WAITS_NAMED = 3  # pending waitpoints that the sentence names one by one
_KINDS = {
    model.STEP: "the step",
    model.WAIT: "the wait",
    model.CHILD: "the child",
    model.TRIGGER: "the trigger of",
    model.BATCH: "the batch",
    model.BATCH_TRIGGER: "the batch",
    model.TOKEN: "the token",
    model.TOKEN_WAIT: "the wait for the token",
}


@dataclass(frozen=True, slots=True)
class Breakdown:
    """How a run has spent its life so far, in microseconds; the parts add up to it."""

    queued: int
    executing: int
    waiting: int
    delayed: int
    backing_off: int


def breakdown(row: Any, now: int) -> Breakdown:
    """From a row of `reads.run_row`. `now` is by the database's clock; a run that has ended does not age."""
    until = row.ended_at if row.ended_at is not None else max(now, row.since)
    current = until - row.since
    status = row.status
    is_delayed = status == model.DELAYED
    queued = (row.queued_us or 0) + (current if status == model.QUEUED else 0)
    waiting = (row.waiting_us or 0) + (current if status == model.WAITING else 0)
    delayed = (row.delayed_us or 0) + (current if is_delayed and not row.fence else 0)
    backing_off = (row.backing_off_us or 0) + (current if is_delayed and row.fence else 0)
    rest = until - row.created_at - queued - waiting - delayed - backing_off
    # A run that was woken ahead and ended before its wait was over has not waited all of it.
    waiting = max(0, waiting + min(0, rest))
    return Breakdown(queued, max(0, rest), waiting, delayed, backing_off)


def now_us() -> int:
    """This machine's clock. It only tells people when a rate limit admits a start again, it decides nothing."""
    return time.time_ns() // 1000


def explain(situation: Situation, workers: int) -> str:
    """The sentence. `workers` is the number of workers connected here that have the run's task."""
    row = situation.row
    status = row.status
    if model.is_final(status):
        return _ended(row)
    if status == model.DELAYED:
        return _delayed(situation)
    if status == model.QUEUED:
        return _queued(situation, workers)
    if status == model.CANCELING:
        return f"Its cancellation was accepted; {_worker(row)} cleans up until {_at(row.wake_at)} at the latest."
    if status == model.WAITING:
        return f"It waits since {_at(row.since)} for {_waits(situation.pending)}."
    return _executing(situation)


def _ended(row: Any) -> str:
    after = ""
    if row.status in (model.FAILED, model.TIMED_OUT) and row.attempt:
        after = f" in attempt {row.attempt} of {row.max_attempts}"
    elif row.status == model.CRASHED:
        after = f" in attempt {row.attempt}, after its worker was lost {row.recoveries} times"
    return f"It ended {model.STATUS_NAMES[row.status]} at {_at(row.ended_at)}{after}{_because(row.error)}."


def _executing(situation: Situation) -> str:
    row = situation.row
    sentence = f"{_worker(row)} executes attempt {row.attempt} of {row.max_attempts} since {_at(row.since)}"
    if situation.pending:
        sentence += f" while it waits for {_waits(situation.pending)}"
    elif (last := situation.last_checkpoint) is not None:
        place = f" at {last.location}" if last.location else ""
        name = f" {last.name!r}" if last.name else ""
        sentence += f"; its last checkpoint is {_KINDS.get(last.kind, 'the call')}{name}{place}"
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


def _queued(situation: Situation, workers: int) -> str:
    row = situation.row
    why = {
        model.RESUMING: "its wait is over and it resumes",
        model.RECOVERING: "its worker was lost",
        model.RELEASED: "its worker handed it back",
    }.get(row.reason, "")
    because = f" because {why}" if why else ""
    limit = _limit(situation, workers)
    if row.reason == model.RESUMING and row.session_worker:
        head = f"It is queued {limit or f'in {row.queue!r}'}{because}"
        return f"{head}, for the next free slot of {_worker(row)}, which holds its body, until {_at(row.wake_at)}."
    if limit:
        return f"It is queued {limit}{because}."
    head = f"It is queued in {row.queue!r}{because}"
    workers += situation.queue.workers_elsewhere
    if not workers and row.pinned:
        return (
            f"{head}, and waits for a worker of version {row.version!r}, which it is pinned to: no connected one has"
            f" the task {row.task!r} in it."
        )
    if not workers:
        return f"{head}, and no connected worker has the task {row.task!r}."
    have = "1 connected worker has" if workers == 1 else f"{workers} connected workers have"
    if situation.busy:
        busy = f"{have} its task and every slot is taken, by {_runs(situation.busy)}"
    else:
        busy = f"{have} its task and takes no run at the moment"
    if situation.ahead or situation.is_more_ahead:
        more = " or more" if situation.is_more_ahead else ""
        are = "is" if situation.ahead == 1 and not more else "are"
        return f"{head}; {busy}, and {_runs(situation.ahead)}{more} {are} before it."
    return f"{head}, and it is the next one; {busy}."


def _limit(situation: Situation, workers: int) -> str:
    """Where it is queued, and by what the queue holds it back; nothing when that is not what it waits for."""
    row, facts, now = situation.row, situation.queue, situation.now
    queue = facts.queue
    reason = facts.why(row.lane, now, workers)
    if queue is None or reason not in (model.PAUSED, model.QUEUE_LIMIT, model.RATE_LIMIT):
        return ""
    limits = queue.limits
    if reason == model.PAUSED:
        return f"in {row.queue!r}, which is paused since {_at(queue.paused_at)}"
    behind = _behind(situation.ahead, situation.is_more_ahead)
    if reason == model.RATE_LIMIT:
        opens = Room(queue, {}, now).opens_at()
        rate = f"limit {limits.rate} starts in {limits.period_us / 1e6:g} s, the next one at {_at(opens)}"
        return f"{behind} on queue {row.queue!r}, {rate}"
    if limits.lane and facts.lane_executing >= limits.lane:
        in_lane = _behind(situation.ahead_in_lane, situation.is_more_ahead)
        if not row.lane:
            return f"{in_lane} on queue {row.queue!r}, limit {limits.lane}"
        return f"{in_lane} with the key {row.lane!r} on queue {row.queue!r}, limit {limits.lane} for each key"
    return f"{behind} on queue {row.queue!r}, limit {limits.total}"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _behind(count: int, is_more: bool) -> str:
    if is_more:
        return f"behind {count} or more others"
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
    until = record.due_at
    if kind == model.WAIT:
        text = f"{_at(until)}"
    elif kind in (model.CHILD, model.TRIGGER):
        status = model.STATUS_NAMES.get(record.child_status or 0, "unknown")
        text = f"its child {ids.run_text(record.subject)} of {record.name!r}, which is {status}"
    elif kind in (model.BATCH, model.BATCH_TRIGGER):
        done = f"{record.items - (record.remaining or 0)} of {record.items} done"
        text = f"its batch {ids.to_text(ids.BATCH, record.subject)} ({done})"
    else:
        text = f"the token {ids.to_text(ids.TOKEN, record.subject)}"
        if record.timeout_at is not None:
            until = record.timeout_at if until is None else min(until, record.timeout_at)
    if kind != model.WAIT and until is not None:
        text += f", at the latest until {_at(until)}"
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
