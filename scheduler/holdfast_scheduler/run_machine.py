"""The one transition table: what each event does to a run in each status.

Everything here is pure. A transition changes the hot row that it is given and returns what follows from it as a set of
effects; the engine carries them out in the same commit. Clock, randomness and policies are arguments. There is no
other place that assigns `Run.status`.

The owners that keep a run moving (promise 7), by status:

    DELAYED     the instant `wake_at`
    QUEUED      its queue, which is looked at whenever a worker has credit; with a session, also the end of its patience
    EXECUTING   the lease of its session
    WAITING     a pending checkpoint (`pending` > 0), of which some may have the instant `timer_at`
    CANCELING   the lease of its session, and the end of the grace at `wake_at`

and in every open status but CANCELING the wall-clock limit `deadline_at`, when there is one.

The fence goes up at each start and resume. Only the execution that holds the current fence may report, so at most one
fence of a run can write (promise 2); a session that lost its lease keeps an old number and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from holdfast_scheduler import model as m
from holdfast_scheduler.backoff import recovery_delay, retry_delay
from holdfast_scheduler.model import Run

# --- effects: a bit each, so that a transition answers with one integer ----------------------------------------------
NOTHING: Final = 0
ENDED: Final = 1
"""The run is final: tell whoever waits, record the result, deal with its children."""
TELL_CANCEL: Final = 2
"""The session that executes it must be told to cancel."""
TELL_DROP: Final = 4
"""The session that had it must let go of the body (it is `Args.former_session`)."""
CANCEL_CHILDREN: Final = 8
"""Children that end with their parent must be canceled now."""
ATTEMPT_ENDED: Final = 16
"""An attempt, or an execution whose worker was lost, ended without ending the run: write its row."""
CLAIMABLE: Final = 32
"""The run became QUEUED: somebody may start it."""
REFUSED: Final = 64
"""The event does not fit the status: nothing changed."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the rules need of a task's definition."""

    factor: float = 2.0
    min_us: int = 1_000_000
    max_us: int = 60_000_000
    randomize: bool = True
    max_recoveries: int = 10


@dataclass(slots=True)
class Limits:
    """Durations that the scheduler dictates, in microseconds."""

    resume_patience_us: int = 5_000_000
    cancel_grace_us: int = 30_000_000
    wake_ahead_us: int = 100_000


AHEAD_PART: Final = 20
"""A wait is ended ahead by a twentieth of its length at the most."""

DEFAULT_POLICY: Final = Policy()


@dataclass(slots=True)
class Args:
    """What an event brings. Unused fields stay at their defaults."""

    now: int
    limits: Limits
    policy: Policy = DEFAULT_POLICY
    session: bytes = b""  # START, RESUME: who gets it
    chance: float = 0.5  # a random number in [0, 1)
    retryable: bool = False  # FAIL
    timed_out: bool = False  # FAIL: the attempt met its time limit
    retry_delay_us: int | None = None  # FAIL: decided by the user's code
    seen: int = 0  # PARK: the highest pushed settlement that the execution had seen
    former_session: bytes | None = None  # out: who had the run, for TELL_DROP


# --- events -----------------------------------------------------------------------------------------------------------
START: Final = "start"  # a session takes the run to begin or re-enter its body
RESUME: Final = "resume"  # the session that holds the parked body continues it
PARK: Final = "park"  # every task of the body is blocked on a durable call
WAKE: Final = "wake"  # the parked body has something to do by itself
SETTLED: Final = "settled"  # a pending checkpoint was answered from outside
COMPLETE: Final = "complete"
FAIL: Final = "fail"
END_CANCELED: Final = "end_canceled"  # the worker says: the body ended after the cancellation
RELEASE: Final = "release"  # the worker hands it back
LOSE: Final = "lose"  # the worker was lost
CANCEL: Final = "cancel"
DUE: Final = "due"  # `due_at` has come (checkpoint timers are settled before, see `timers`)


OCCUPYING: Final = (m.EXECUTING, m.CANCELING)
"""Statuses in which a run holds a slot of its queue."""

TIMED: Final = (m.EXECUTING, m.WAITING, m.CANCELING)
"""Statuses in which pending checkpoints come due. Clean-up waits during a cancellation, too."""


def set_due(run: Run) -> None:
    """Derive the one timer from what time can do to the run in its status."""
    # A run that is being canceled ends by the end of its grace, whatever its limit was.
    due = None if m.is_final(run.status) or run.status == m.CANCELING else run.deadline_at
    if run.status in (m.DELAYED, m.QUEUED, m.CANCELING) and run.wake_at is not None:
        due = run.wake_at if due is None else min(due, run.wake_at)
    if run.status in TIMED and run.timer_at is not None:
        due = run.timer_at if due is None else min(due, run.timer_at)
    run.due_at = due


def ahead_us(run: Run, limits: Limits) -> int:
    """How long before its instant the wait of a parked body may be ended, in microseconds, when its worker holds the
    body until then: of a thousand waits that end together the last is not late by what the others take. It costs a slot
    meanwhile, so it is a small part of the wait. Only where the body waits for nothing else, or what comes in the
    meantime would lose a race that it should win."""
    if run.status != m.WAITING or run.session is None or run.pending != 1:
        return 0
    if run.due_at is None or run.due_at != run.timer_at:
        return 0
    return max(0, min(limits.wake_ahead_us, (run.due_at - run.since) // AHEAD_PART))


def _is_held(run: Run, a: Args) -> bool:
    """Whether the run was woken ahead and its wait is not over: nothing of it executes. Its life counts by the instants
    (`since` lies ahead)."""
    return 0 < run.since - a.now <= a.limits.wake_ahead_us


def _end(run: Run, status: int) -> int:
    run.status = status
    run.reason = m.NO_REASON
    run.session = None
    run.wake_at = None
    run.due_at = None
    return ENDED


def _queue(run: Run, reason: int) -> int:
    run.status = m.QUEUED
    run.reason = reason
    run.session = None
    run.wake_at = None
    set_due(run)
    return CLAIMABLE


def _delay(run: Run, reason: int, until: int) -> None:
    run.status = m.DELAYED
    run.reason = reason
    run.session = None
    run.wake_at = until
    set_due(run)


def _enter_again(run: Run, reason: int, a: Args) -> int:
    """Back to the queue, for any worker; one that was woken ahead only when its wait is over."""
    if not _is_held(run, a):
        return _queue(run, reason)
    _delay(run, m.RECOVERING, run.since)
    return NOTHING


def _execute(run: Run, a: Args) -> int:
    run.status = m.EXECUTING
    run.reason = m.NO_REASON
    run.session = a.session
    run.wake_at = None
    run.fence += 1
    run.last_report = 0
    set_due(run)
    return NOTHING


def _start(run: Run, a: Args) -> int:
    # A new attempt begins when the previous one has ended; a recovery, a release or a resume elsewhere goes on with
    # the same attempt.
    if run.started_at is None:
        run.attempt += 1
        run.started_at = a.now
        if run.attempt > 1:
            run.attempt_base = run.since - _not_executed_us(run)
    return _execute(run, a)


def _park(run: Run, a: Args) -> int:
    if run.pushed > a.seen:
        return NOTHING  # an answer that the worker has not seen yet is on its way to it: the execution goes on
    if run.pending == 0:
        return REFUSED  # nothing would ever wake it
    run.status = m.WAITING
    run.reason = m.NO_REASON
    run.seen = a.seen
    set_due(run)
    return NOTHING


def _wake(run: Run, a: Args) -> int:
    """Back to the queue, at its original order. While its own worker still has the body, that worker comes first."""
    run.status = m.QUEUED
    run.reason = m.RESUMING
    run.wake_at = a.now + a.limits.resume_patience_us if run.session is not None else None
    set_due(run)
    return CLAIMABLE


def _still(run: Run, a: Args) -> int:
    return NOTHING


def _complete(run: Run, a: Args) -> int:
    return _end(run, m.COMPLETED)


def _fail(run: Run, a: Args) -> int:
    if a.timed_out:
        return _end(run, m.TIMED_OUT)
    if not a.retryable or run.attempt >= run.max_attempts:
        return _end(run, m.FAILED)
    p = a.policy
    delay = a.retry_delay_us
    if delay is None:
        delay = retry_delay(
            run.attempt, factor=p.factor, min_us=p.min_us, max_us=p.max_us, randomize=p.randomize, chance=a.chance
        )
    _delay(run, m.BACKING_OFF, a.now + max(0, delay))
    return ATTEMPT_ENDED


def _end_canceled(run: Run, a: Args) -> int:
    return _end(run, m.CANCELED)


def _release(run: Run, a: Args) -> int:
    return _enter_again(run, m.RELEASED, a)


def _lose(run: Run, a: Args) -> int:
    if _is_held(run, a):
        return _enter_again(run, m.RECOVERING, a)
    run.recoveries += 1
    if run.recoveries > a.policy.max_recoveries:
        return _end(run, m.CRASHED)
    delay = recovery_delay(run.recoveries, chance=a.chance)
    if delay == 0:
        return _queue(run, m.RECOVERING) | ATTEMPT_ENDED
    _delay(run, m.RECOVERING, a.now + delay)
    return ATTEMPT_ENDED


def _lose_body(run: Run, a: Args) -> int:
    """The worker that held the parked body is gone: nothing was executing, so no recovery is counted."""
    if run.status == m.QUEUED:
        return _enter_again(run, run.reason, a)
    run.session = None
    return NOTHING


def _cancel_at_once(run: Run, a: Args) -> int:
    a.former_session = run.session
    drop = TELL_DROP if run.session is not None else NOTHING
    return _end(run, m.CANCELED) | CANCEL_CHILDREN | drop


def _cancel_gracefully(run: Run, a: Args) -> int:
    run.status = m.CANCELING
    run.reason = m.NO_REASON
    run.wake_at = a.now + a.limits.cancel_grace_us
    set_due(run)
    return TELL_CANCEL | CANCEL_CHILDREN


def _time_out(run: Run, a: Args) -> int:
    a.former_session = run.session
    drop = TELL_DROP if run.session is not None else NOTHING
    return _end(run, m.TIMED_OUT) | drop


def _past_deadline(run: Run, a: Args) -> bool:
    return run.deadline_at is not None and run.deadline_at <= a.now


def _due_delayed(run: Run, a: Args) -> int:
    if _past_deadline(run, a):
        return _time_out(run, a)
    if run.wake_at is None or run.wake_at > a.now:
        return NOTHING
    if run.reason == m.BACKING_OFF:
        run.started_at = None  # the next start begins a new attempt
        return _queue(run, m.NO_REASON)
    return _queue(run, m.RECOVERING if run.reason == m.RECOVERING else m.NO_REASON)


def _due_queued(run: Run, a: Args) -> int:
    if _past_deadline(run, a):
        return _time_out(run, a)
    if run.wake_at is None or run.wake_at > a.now:
        return NOTHING
    if run.fence == 0:
        return _end(run, m.EXPIRED)
    # Its own worker found no slot within the patience: any worker may re-enter it, the parked body is let go.
    a.former_session = run.session
    return _queue(run, run.reason) | TELL_DROP


def _due_executing(run: Run, a: Args) -> int:
    if _past_deadline(run, a):
        return _time_out(run, a)
    set_due(run)
    return NOTHING


def _due_canceling(run: Run, a: Args) -> int:
    if run.wake_at is None or run.wake_at > a.now:
        return NOTHING
    a.former_session = run.session
    return _end(run, m.CANCELED) | TELL_DROP


Handler = Callable[[Run, Args], int]

TABLE: Final[dict[tuple[int, str], Handler]] = {
    # A run that nobody executes.
    (m.DELAYED, DUE): _due_delayed,
    (m.DELAYED, CANCEL): _cancel_at_once,
    (m.DELAYED, SETTLED): _still,
    (m.QUEUED, START): _start,
    (m.QUEUED, RESUME): _execute,
    (m.QUEUED, WAKE): _still,
    (m.QUEUED, SETTLED): _still,
    (m.QUEUED, RELEASE): _lose_body,
    (m.QUEUED, LOSE): _lose_body,
    (m.QUEUED, CANCEL): _cancel_at_once,
    (m.QUEUED, DUE): _due_queued,
    # A run that a worker executes.
    (m.EXECUTING, PARK): _park,
    (m.EXECUTING, SETTLED): _still,
    (m.EXECUTING, COMPLETE): _complete,
    (m.EXECUTING, FAIL): _fail,
    (m.EXECUTING, RELEASE): _release,
    (m.EXECUTING, LOSE): _lose,
    (m.EXECUTING, CANCEL): _cancel_gracefully,
    (m.EXECUTING, DUE): _due_executing,
    # A run that waits, its body parked in a worker or nowhere.
    (m.WAITING, WAKE): _wake,
    (m.WAITING, SETTLED): _wake,
    (m.WAITING, RELEASE): _lose_body,
    (m.WAITING, LOSE): _lose_body,
    (m.WAITING, CANCEL): _cancel_at_once,
    (m.WAITING, DUE): _due_executing,
    # A run that will end CANCELED whatever is reported.
    (m.CANCELING, COMPLETE): _end_canceled,
    (m.CANCELING, FAIL): _end_canceled,
    (m.CANCELING, END_CANCELED): _end_canceled,
    (m.CANCELING, RELEASE): _end_canceled,
    (m.CANCELING, LOSE): _end_canceled,
    (m.CANCELING, PARK): _still,
    (m.CANCELING, SETTLED): _still,
    (m.CANCELING, DUE): _due_canceling,
}


def executed_us(run: Run, created_at: int) -> int:
    """How long a run that has just been started had executed in its present attempt before, in microseconds.

    A run executes whenever it does nothing else. So the instant, less all that it has spent on something else, goes on
    only while it executes; `attempt_base` is what that was when the attempt began.
    """
    base = created_at if run.attempt_base is None else run.attempt_base
    return max(0, run.since - _not_executed_us(run) - base)


def _not_executed_us(run: Run) -> int:
    return (run.queued_us or 0) + (run.waiting_us or 0) + (run.delayed_us or 0) + (run.backing_off_us or 0)


def apply(run: Run, event: str, args: Args) -> int:
    """Apply one event and return its effects; `REFUSED` when the status has no place for it."""
    handler = TABLE.get((run.status, event))
    if handler is None:
        return REFUSED
    status = run.status
    effects = handler(run, args)
    if run.status != status:
        _keep_time(run, status, args.now)
    return effects


def _keep_time(run: Run, left: int, now: int) -> None:
    """Add what the run has spent in the status that it has left. Where it executes, nothing is kept: that is the rest
    of its life."""
    spent = now - run.since
    if spent <= 0:  # a transaction that waited for a lock may have an earlier clock than what it waited for
        return
    run.since = now
    if left == m.QUEUED:
        run.queued_us = (run.queued_us or 0) + spent
    elif left == m.WAITING:
        run.waiting_us = (run.waiting_us or 0) + spent
    elif left == m.DELAYED:
        if run.fence:
            run.backing_off_us = (run.backing_off_us or 0) + spent
        else:
            run.delayed_us = (run.delayed_us or 0) + spent
