"""The transition table, cell by cell: what each event does to a run in each status, and what it never does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.schema import CreateTable

from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler import schema, store
from holdfast_scheduler.model import Run
from holdfast_scheduler.run_machine import (
    ATTEMPT_ENDED,
    CANCEL_CHILDREN,
    CLAIMABLE,
    ENDED,
    NOTHING,
    REFUSED,
    TELL_CANCEL,
    TELL_DROP,
)

NOW = 1_000_000_000
SECOND = 1_000_000
OPEN = (m.DELAYED, m.QUEUED, m.EXECUTING, m.WAITING, m.CANCELING)
FINAL = tuple(status for status in m.STATUS_NAMES if m.is_final(status))
EVENTS = (
    rules.START,
    rules.RESUME,
    rules.PARK,
    rules.WAKE,
    rules.SETTLED,
    rules.COMPLETE,
    rules.FAIL,
    rules.END_CANCELED,
    rules.RELEASE,
    rules.LOSE,
    rules.CANCEL,
    rules.DUE,
)

IGNORED = {
    (m.DELAYED, rules.START): "only what is QUEUED is handed out",
    (m.DELAYED, rules.RESUME): "it has no body",
    (m.DELAYED, rules.PARK): "nobody executes it",
    (m.DELAYED, rules.WAKE): "it has no body",
    (m.DELAYED, rules.COMPLETE): "nobody executes it",
    (m.DELAYED, rules.FAIL): "nobody executes it",
    (m.DELAYED, rules.END_CANCELED): "nobody executes it",
    (m.DELAYED, rules.RELEASE): "no session has it",
    (m.DELAYED, rules.LOSE): "no session has it",
    (m.QUEUED, rules.PARK): "its body is parked already",
    (m.QUEUED, rules.COMPLETE): "its body is parked",
    (m.QUEUED, rules.FAIL): "its body is parked",
    (m.QUEUED, rules.END_CANCELED): "a cancellation ends it at once",
    (m.EXECUTING, rules.START): "it has an owner",
    (m.EXECUTING, rules.RESUME): "it has an owner",
    (m.EXECUTING, rules.WAKE): "it has its slot",
    (m.EXECUTING, rules.END_CANCELED): "nobody asked to cancel it",
    (m.WAITING, rules.START): "it waits for something",
    (m.WAITING, rules.RESUME): "it waits for something",
    (m.WAITING, rules.PARK): "it is parked",
    (m.WAITING, rules.COMPLETE): "its body is parked",
    (m.WAITING, rules.FAIL): "its body is parked",
    (m.WAITING, rules.END_CANCELED): "a cancellation ends it at once",
    (m.CANCELING, rules.START): "it is not handed out again",
    (m.CANCELING, rules.RESUME): "it is not handed out again",
    (m.CANCELING, rules.WAKE): "it has its slot until it ends",
    (m.CANCELING, rules.CANCEL): "it is being canceled",
}
"""Pairs that the table leaves out on purpose, and why. Final runs ignore everything."""


def run(status: int, **changes: object) -> Run:
    """A run as the rules leave it in a status."""
    made = Run(
        id=b"r" * 16,
        task="t",
        version="1",
        queue="q",
        lane="",
        order_at=NOW - SECOND,
        status=status,
        reason=m.SCHEDULED if status == m.DELAYED else m.NO_REASON,
        attempt=1,
        max_attempts=3,
        recoveries=0,
        fence=1,
        last_report=4,
        settled=2,
        pushed=1,
        seen=1,
        last_seq=2,
        session=b"s" * 16 if status in (m.EXECUTING, m.WAITING, m.CANCELING) else None,
        pending=1 if status == m.WAITING else 0,
        wake_at=NOW + 10 * SECOND if status in (m.DELAYED, m.CANCELING) else None,
        timer_at=None,
        deadline_at=None,
        due_at=None,
        started_at=NOW - SECOND,
        parent=None,
        on_parent_end=0,
        awaited=False,
    )
    for name, value in changes.items():
        setattr(made, name, value)
    rules.set_due(made)
    return made


def args(now: int = NOW, **parts: object) -> rules.Args:
    made = rules.Args(now, rules.Limits(), rules.Policy(randomize=False), chance=0.0)
    for name, value in {"session": b"x" * 16, **parts}.items():
        setattr(made, name, value)
    return made


def shape(one: Run) -> tuple[object, ...]:
    return tuple(getattr(one, name) for name in Run.__dataclass_fields__)


# --- the table as a whole ---


def test_every_cell_is_in_the_table_or_in_the_list_of_ignored_pairs() -> None:
    cells = {(status, event) for status in OPEN for event in EVENTS}
    assert set(rules.TABLE) | set(IGNORED) == cells
    assert not set(rules.TABLE) & set(IGNORED)


def test_the_list_of_events_is_complete() -> None:
    assert {event for _, event in rules.TABLE} == set(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("status", m.STATUS_NAMES)
def test_what_is_not_in_the_table_changes_nothing(status: int, event: str) -> None:
    if (status, event) in rules.TABLE:
        return
    one = run(status)
    before = shape(one)
    assert rules.apply(one, event, args(retryable=True, seen=99)) == REFUSED
    assert shape(one) == before


@pytest.mark.parametrize("status", FINAL)
def test_a_final_run_has_no_row_in_the_table(status: int) -> None:
    assert not [cell for cell in rules.TABLE if cell[0] == status]


# --- starting and resuming ---


def test_start_begins_an_attempt_under_a_new_fence() -> None:
    one = run(m.QUEUED, attempt=0, started_at=None, fence=0, wake_at=NOW + SECOND)
    assert rules.apply(one, rules.START, args()) == NOTHING
    assert (one.status, one.attempt, one.fence, one.last_report) == (m.EXECUTING, 1, 1, 0)
    assert (one.session, one.started_at, one.wake_at, one.due_at) == (b"x" * 16, NOW, None, None)


def test_start_after_a_recovery_goes_on_with_the_attempt() -> None:
    one = run(m.QUEUED, reason=m.RECOVERING)
    rules.apply(one, rules.START, args())
    assert (one.attempt, one.fence, one.started_at) == (1, 2, NOW - SECOND)


def test_resume_goes_on_under_a_new_fence() -> None:
    one = run(m.QUEUED, reason=m.RESUMING, session=b"x" * 16, wake_at=NOW + SECOND)
    assert rules.apply(one, rules.RESUME, args()) == NOTHING
    assert (one.status, one.attempt, one.fence, one.last_report, one.wake_at) == (m.EXECUTING, 1, 2, 0, None)


@given(st.lists(st.sampled_from(EVENTS), max_size=40), st.randoms(use_true_random=False))
def test_promise_2_the_fence_only_rises_and_only_with_a_new_owner(events: list[str], random: object) -> None:
    one = run(m.QUEUED, fence=0, started_at=None, attempt=0)
    now = NOW
    for event in events:
        fence = one.fence
        effects = rules.apply(one, event, args(now, retryable=True))
        began = event in (rules.START, rules.RESUME) and not effects & REFUSED
        assert one.fence == fence + began
        now += 5 * SECOND


# --- parking and waking ---


def test_park_gives_up_the_slot_and_keeps_the_body() -> None:
    one = run(m.EXECUTING, pending=1, timer_at=NOW + SECOND)
    assert rules.apply(one, rules.PARK, args(seen=1)) == NOTHING
    assert (one.status, one.session, one.seen, one.due_at) == (m.WAITING, b"s" * 16, 1, NOW + SECOND)


def test_park_does_not_happen_while_an_answer_is_on_its_way() -> None:
    one = run(m.EXECUTING, pending=1, pushed=2)
    assert rules.apply(one, rules.PARK, args(seen=1)) == NOTHING
    assert one.status == m.EXECUTING


def test_park_with_nothing_to_wait_for_is_refused() -> None:
    one = run(m.EXECUTING, pending=0)
    before = shape(one)
    assert rules.apply(one, rules.PARK, args(seen=1)) == REFUSED
    assert shape(one) == before


@pytest.mark.parametrize("event", [rules.WAKE, rules.SETTLED])
def test_a_woken_body_waits_for_its_own_worker_for_a_while(event: str) -> None:
    one = run(m.WAITING)
    assert rules.apply(one, event, args()) == CLAIMABLE
    assert (one.status, one.reason, one.session) == (m.QUEUED, m.RESUMING, b"s" * 16)
    assert one.wake_at == one.due_at == NOW + rules.Limits().resume_patience_us
    assert one.order_at == NOW - SECOND


@pytest.mark.parametrize(
    ("seconds", "changes", "ahead_us"),
    [
        (10, {}, 100_000),
        (2, {}, 100_000),
        (1, {}, 50_000),
        (0, {}, 0),
        (10, {"session": None}, 0),
        (10, {"status": m.EXECUTING}, 0),
        (10, {"status": m.CANCELING}, 0),
        (10, {"deadline_at": NOW + 5 * SECOND, "due_at": NOW + 5 * SECOND}, 0),
        (10, {"timer_at": None, "due_at": None}, 0),
        (10, {"pending": 2}, 0),
    ],
)
def test_the_wait_of_a_parked_body_may_be_ended_ahead(seconds: int, changes: dict[str, int], ahead_us: int) -> None:
    end = NOW + seconds * SECOND
    fields = {"since": NOW, "timer_at": end, "due_at": end, "pending": 1, **changes}
    one = run(fields.pop("status", m.WAITING), **fields)
    assert rules.ahead_us(one, rules.Limits()) == ahead_us
    assert rules.ahead_us(one, rules.Limits(wake_ahead_us=0)) == 0


@pytest.mark.parametrize("status", [m.EXECUTING, m.QUEUED])
@pytest.mark.parametrize("event", [rules.LOSE, rules.RELEASE])
def test_a_run_that_was_woken_ahead_is_entered_again_when_its_wait_is_over(status: int, event: str) -> None:
    """Nothing of it was executing, so no recovery is counted."""
    one = run(status, reason=m.RESUMING, session=b"s" * 16, since=NOW + 50_000, wake_at=NOW + SECOND, recoveries=1)
    attempt, life = one.attempt, (one.queued_us, one.waiting_us, one.delayed_us, one.backing_off_us)
    assert rules.apply(one, event, args()) == NOTHING
    assert (one.status, one.reason, one.session) == (m.DELAYED, m.RECOVERING, None)
    assert one.wake_at == one.due_at == one.since == NOW + 50_000
    assert rules.apply(one, rules.DUE, args(now=NOW + 50_000)) == CLAIMABLE
    assert (one.status, one.attempt, one.recoveries) == (m.QUEUED, attempt, 1)
    assert (one.queued_us, one.waiting_us, one.delayed_us, one.backing_off_us) == life


def test_an_instant_far_ahead_is_a_clock_that_was_set_back() -> None:
    one = run(m.EXECUTING, session=b"s" * 16, since=NOW + 60 * SECOND)
    assert rules.apply(one, rules.LOSE, args()) == CLAIMABLE | ATTEMPT_ENDED
    assert one.recoveries == 1


@pytest.mark.parametrize("event", [rules.WAKE, rules.SETTLED])
def test_a_woken_run_without_a_body_waits_for_anybody(event: str) -> None:
    one = run(m.WAITING, session=None)
    assert rules.apply(one, event, args()) == CLAIMABLE
    assert (one.status, one.reason, one.session, one.due_at) == (m.QUEUED, m.RESUMING, None, None)


def test_after_its_patience_any_worker_may_have_it_and_the_body_is_let_go() -> None:
    one = run(m.QUEUED, reason=m.RESUMING, session=b"s" * 16, wake_at=NOW)
    a = args()
    assert rules.apply(one, rules.DUE, a) == CLAIMABLE | TELL_DROP
    assert (one.status, one.reason, one.session, one.due_at) == (m.QUEUED, m.RESUMING, None, None)
    assert a.former_session == b"s" * 16


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (m.DELAYED, rules.SETTLED),
        (m.QUEUED, rules.SETTLED),
        (m.QUEUED, rules.WAKE),
        (m.EXECUTING, rules.SETTLED),
        (m.CANCELING, rules.SETTLED),
        (m.CANCELING, rules.PARK),
    ],
)
def test_events_that_are_taken_note_of_and_change_nothing(status: int, event: str) -> None:
    one = run(status)
    before = shape(one)
    assert rules.apply(one, event, args(seen=9)) == NOTHING
    assert shape(one) == before


# --- ends ---


def assert_quiet(one: Run, status: int) -> None:
    assert (one.status, one.reason, one.session, one.wake_at, one.due_at) == (status, m.NO_REASON, None, None, None)


def test_complete() -> None:
    one = run(m.EXECUTING, deadline_at=NOW + SECOND)
    assert rules.apply(one, rules.COMPLETE, args()) == ENDED
    assert_quiet(one, m.COMPLETED)


def test_a_retryable_failure_backs_off() -> None:
    one = run(m.EXECUTING)
    assert rules.apply(one, rules.FAIL, args(retryable=True)) == ATTEMPT_ENDED
    assert (one.status, one.reason, one.session, one.attempt) == (m.DELAYED, m.BACKING_OFF, None, 1)
    assert one.wake_at == one.due_at == NOW + SECOND


def test_a_failure_says_itself_when_to_retry() -> None:
    one = run(m.EXECUTING)
    rules.apply(one, rules.FAIL, args(retryable=True, retry_delay_us=7))
    assert one.wake_at == NOW + 7


@pytest.mark.parametrize(
    ("changes", "parts", "status"),
    [
        ({}, {"retryable": False}, m.FAILED),
        ({"attempt": 3}, {"retryable": True}, m.FAILED),
        ({}, {"retryable": True, "timed_out": True}, m.TIMED_OUT),
    ],
    ids=["aborted", "last attempt", "timed out"],
)
def test_failures_that_end_the_run(changes: dict[str, object], parts: dict[str, object], status: int) -> None:
    one = run(m.EXECUTING, **changes)
    assert rules.apply(one, rules.FAIL, args(**parts)) == ENDED
    assert_quiet(one, status)


def test_a_retry_begins_a_new_attempt() -> None:
    one = run(m.EXECUTING)
    rules.apply(one, rules.FAIL, args(retryable=True))
    assert rules.apply(one, rules.DUE, args(NOW + SECOND - 1)) == NOTHING
    assert rules.apply(one, rules.DUE, args(NOW + SECOND)) == CLAIMABLE
    rules.apply(one, rules.START, args(NOW + 2 * SECOND))
    assert (one.attempt, one.fence, one.started_at) == (2, 2, NOW + 2 * SECOND)


@pytest.mark.parametrize("event", [rules.COMPLETE, rules.FAIL, rules.END_CANCELED, rules.RELEASE, rules.LOSE])
def test_whatever_a_run_that_is_being_canceled_reports_it_ends_canceled(event: str) -> None:
    one = run(m.CANCELING)
    assert rules.apply(one, event, args(retryable=True)) == ENDED
    assert_quiet(one, m.CANCELED)


# --- losing and releasing ---


def test_release_costs_neither_an_attempt_nor_a_recovery() -> None:
    one = run(m.EXECUTING)
    assert rules.apply(one, rules.RELEASE, args()) == CLAIMABLE
    assert (one.status, one.reason, one.session, one.recoveries) == (m.QUEUED, m.RELEASED, None, 0)
    rules.apply(one, rules.START, args())
    assert (one.attempt, one.fence) == (1, 2)


def test_the_first_recovery_is_at_once_and_later_ones_back_off() -> None:
    one = run(m.EXECUTING)
    assert rules.apply(one, rules.LOSE, args()) == CLAIMABLE | ATTEMPT_ENDED
    assert (one.status, one.reason, one.recoveries, one.session) == (m.QUEUED, m.RECOVERING, 1, None)
    rules.apply(one, rules.START, args())
    assert rules.apply(one, rules.LOSE, args()) == ATTEMPT_ENDED
    assert (one.status, one.reason, one.recoveries) == (m.DELAYED, m.RECOVERING, 2)
    assert one.due_at is not None
    assert one.due_at >= NOW + SECOND
    assert rules.apply(one, rules.DUE, args(one.due_at)) == CLAIMABLE
    rules.apply(one, rules.START, args())
    assert one.attempt == 1


def test_a_run_that_loses_its_workers_too_often_crashes() -> None:
    one = run(m.EXECUTING, recoveries=10)
    assert rules.apply(one, rules.LOSE, args()) == ENDED
    assert_quiet(one, m.CRASHED)


@pytest.mark.parametrize("event", [rules.RELEASE, rules.LOSE])
def test_losing_a_parked_body_counts_no_recovery(event: str) -> None:
    waiting = run(m.WAITING)
    assert rules.apply(waiting, event, args()) == NOTHING
    assert (waiting.status, waiting.session, waiting.recoveries) == (m.WAITING, None, 0)
    woken = run(m.QUEUED, reason=m.RESUMING, session=b"s" * 16, wake_at=NOW + SECOND)
    assert rules.apply(woken, event, args()) == CLAIMABLE
    assert (woken.status, woken.session, woken.recoveries, woken.due_at) == (m.QUEUED, None, 0, None)


# --- canceling ---


@pytest.mark.parametrize("status", [m.DELAYED, m.QUEUED])
def test_cancel_ends_at_once_what_nobody_executes(status: int) -> None:
    one = run(status)
    assert rules.apply(one, rules.CANCEL, args()) == ENDED | CANCEL_CHILDREN
    assert_quiet(one, m.CANCELED)


@pytest.mark.parametrize("status", [m.WAITING, m.QUEUED])
def test_cancel_has_a_parked_body_dropped(status: int) -> None:
    one = run(status, session=b"s" * 16, wake_at=NOW + SECOND if status == m.QUEUED else None)
    a = args()
    assert rules.apply(one, rules.CANCEL, a) == ENDED | CANCEL_CHILDREN | TELL_DROP
    assert a.former_session == b"s" * 16
    assert_quiet(one, m.CANCELED)


def test_cancel_asks_a_body_to_end_and_cuts_it_off_after_the_grace() -> None:
    one = run(m.EXECUTING, deadline_at=NOW + SECOND)
    assert rules.apply(one, rules.CANCEL, args()) == TELL_CANCEL | CANCEL_CHILDREN
    grace = rules.Limits().cancel_grace_us
    assert (one.status, one.session, one.wake_at, one.due_at) == (m.CANCELING, b"s" * 16, NOW + grace, NOW + grace)
    assert rules.apply(one, rules.DUE, args(NOW + 2 * SECOND)) == NOTHING
    a = args(NOW + grace)
    assert rules.apply(one, rules.DUE, a) == ENDED | TELL_DROP
    assert a.former_session == b"s" * 16
    assert_quiet(one, m.CANCELED)


# --- time ---


def test_a_run_that_was_never_started_expires() -> None:
    one = run(m.QUEUED, fence=0, wake_at=NOW)
    assert rules.apply(one, rules.DUE, args()) == ENDED
    assert_quiet(one, m.EXPIRED)


@pytest.mark.parametrize("status", [m.DELAYED, m.QUEUED, m.EXECUTING, m.WAITING])
def test_the_wall_clock_limit_ends_a_run_in_every_status(status: int) -> None:
    one = run(status, deadline_at=NOW)
    a = args()
    effects = rules.apply(one, rules.DUE, a)
    assert effects == ENDED | (TELL_DROP if status in (m.EXECUTING, m.WAITING) else NOTHING)
    assert_quiet(one, m.TIMED_OUT)


@pytest.mark.parametrize("status", OPEN)
def test_due_before_its_time_changes_nothing(status: int) -> None:
    one = run(status, wake_at=NOW + 1, deadline_at=NOW + 1, timer_at=NOW + 1, session=b"s" * 16)
    before = shape(one)
    assert rules.apply(one, rules.DUE, args()) == NOTHING
    assert shape(one) == before


@pytest.mark.parametrize("status", m.STATUS_NAMES)
def test_the_one_timer(status: int) -> None:
    wake, timer, deadline = NOW + 3, NOW + 2, NOW + 4
    one = run(status, wake_at=wake, timer_at=timer, deadline_at=deadline)
    expected = {m.DELAYED: wake, m.QUEUED: wake, m.EXECUTING: timer, m.WAITING: timer, m.CANCELING: timer}
    assert one.due_at == expected.get(status)
    one = run(status, wake_at=wake, timer_at=timer, deadline_at=NOW + 1)
    assert one.due_at == (timer if status == m.CANCELING else None if m.is_final(status) else NOW + 1)
    one = run(status, wake_at=None, timer_at=None, deadline_at=None)
    assert one.due_at is None


# --- invariants ---


@pytest.fixture(scope="module")
def table() -> Iterator[sqlite3.Connection]:
    """An empty table `runs` with the CHECK constraints of the schema."""
    connection = sqlite3.connect(":memory:")
    from sqlalchemy.dialects import sqlite

    connection.execute(str(CreateTable(schema.runs).compile(dialect=sqlite.dialect())))  # type: ignore[no-untyped-call]
    yield connection
    connection.close()


def stored(connection: sqlite3.Connection, one: Run) -> None:
    """Raises sqlite3.IntegrityError when the schema refuses the row."""
    names = ("namespace", *store.RUN_COLUMNS)
    row = ("n", *(getattr(one, name) for name in store.RUN_COLUMNS))
    connection.execute(f"INSERT OR REPLACE INTO runs ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", row)


def owner(one: Run) -> str:
    """Who will move the run on (promise 7); empty when nobody will."""
    if one.status == m.DELAYED:
        return "an instant" if one.wake_at is not None and one.due_at is not None else ""
    if one.status == m.QUEUED:
        return "its queue" if one.session is None else "its own worker, for a while" if one.due_at is not None else ""
    if one.status == m.EXECUTING:
        return "a lease" if one.session is not None else ""
    if one.status == m.WAITING:
        return "a waitpoint" if one.pending > 0 else ""
    if one.status == m.CANCELING:
        return "a lease and the end of its grace" if one.session is not None and one.due_at is not None else ""
    return "nobody needs to"


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 7), st.booleans()), max_size=60), st.data())
def test_promise_7_every_open_status_has_an_owner(
    table: sqlite3.Connection, events: list[tuple[str, int, bool]], data: st.DataObject
) -> None:
    limits = [data.draw(st.sampled_from([None, 40])) for _ in range(1)]
    one = run(
        m.QUEUED,
        fence=0,
        started_at=None,
        attempt=0,
        settled=0,
        pushed=0,
        seen=0,
        deadline_at=None if limits[0] is None else NOW + limits[0] * SECOND,
    )
    now = NOW
    for event, seconds, flag in events:
        now += seconds * SECOND
        if one.status == m.EXECUTING and flag:
            one.pending += 1  # a report makes a checkpoint
        if event == rules.SETTLED and one.pending and not m.is_final(one.status):
            one.pending, one.settled, one.pushed = one.pending - 1, one.settled + 1, one.settled + 1
        elif event == rules.SETTLED:
            continue
        due = now if one.due_at is None or flag else max(now, one.due_at)
        now = due if event == rules.DUE else now
        reason = f"{event} in {m.STATUS_NAMES[one.status]}"
        rules.apply(one, event, args(now, retryable=flag, seen=one.pushed if flag else 0))
        assert owner(one), reason
        stored(table, one)
        if event == rules.DUE and one.due_at is not None and one.timer_at is None:
            assert one.due_at > now, f"{reason}: the timer would ring for ever"


@pytest.mark.parametrize(
    "broken",
    [
        {"status": m.EXECUTING, "session": None},
        {"status": m.CANCELING, "session": None},
        {"status": m.COMPLETED, "session": b"s"},
        {"status": m.DELAYED, "due_at": None},
        {"status": m.COMPLETED, "due_at": 1, "session": None},
        {"status": 6},
        {"fence": -1},
    ],
)
def test_the_schema_refuses_what_the_rules_never_make(table: sqlite3.Connection, broken: dict[str, object]) -> None:
    one = run(m.QUEUED)
    for name, value in broken.items():
        setattr(one, name, value)
    with pytest.raises(sqlite3.IntegrityError):
        stored(table, one)
