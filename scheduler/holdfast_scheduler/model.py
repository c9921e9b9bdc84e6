"""The nouns of the scheduler: rows, commands and outcomes, as plain data.

Statuses and the like are plain integers equal to the contract's enum numbers: they are compared millions of times, and
a test holds them equal to the contract, the SQL checks and the SDK. Instants are microseconds since the Unix epoch,
UTC, by the database's clock. Ids are 16 bytes. Payloads, errors and options are serialized contract messages that the
scheduler stores and hands on without looking inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

# --- status ---------------------------------------------------------------------------------------------------------
DELAYED: Final = 1
QUEUED: Final = 2
EXECUTING: Final = 3
WAITING: Final = 4
CANCELING: Final = 5
COMPLETED: Final = 10
FAILED: Final = 11
CRASHED: Final = 12
TIMED_OUT: Final = 13
EXPIRED: Final = 14
CANCELED: Final = 15

STATUS_NAMES: Final[dict[int, str]] = {
    DELAYED: "DELAYED",
    QUEUED: "QUEUED",
    EXECUTING: "EXECUTING",
    WAITING: "WAITING",
    CANCELING: "CANCELING",
    COMPLETED: "COMPLETED",
    FAILED: "FAILED",
    CRASHED: "CRASHED",
    TIMED_OUT: "TIMED_OUT",
    EXPIRED: "EXPIRED",
    CANCELED: "CANCELED",
}


def is_final(status: int) -> bool:
    """Whether a run with this status never changes again."""
    return status >= COMPLETED


# --- status reason --------------------------------------------------------------------------------------------------
NO_REASON: Final = 0
SCHEDULED: Final = 1
BACKING_OFF: Final = 2
DEBOUNCED: Final = 3
# The next five are never stored: `admission.why_queued` derives them when somebody asks.
NO_WORKER: Final = 4
NO_SLOT: Final = 5
QUEUE_LIMIT: Final = 6
RATE_LIMIT: Final = 7
PAUSED: Final = 8
RESUMING: Final = 9
RECOVERING: Final = 10
RELEASED: Final = 11

# --- checkpoints ----------------------------------------------------------------------------------------------------
STEP: Final = 1
WAIT: Final = 2
CHILD: Final = 3
TRIGGER: Final = 4
BATCH: Final = 5
BATCH_TRIGGER: Final = 6
TOKEN: Final = 7
TOKEN_WAIT: Final = 8

PENDING: Final = 1
SUCCEEDED: Final = 2
FAILED_CHECKPOINT: Final = 3
ABANDONED: Final = 4

# --- attempts -------------------------------------------------------------------------------------------------------
ATTEMPT_SUCCEEDED: Final = 2
ATTEMPT_FAILED: Final = 3
ATTEMPT_LOST: Final = 4
ATTEMPT_CANCELED: Final = 5
ATTEMPT_TIMED_OUT: Final = 6

# --- what happens to a child when its parent ends without success ----------------------------------------------------
ON_PARENT_END_CANCEL: Final = 1
ON_PARENT_END_DETACH: Final = 2

# --- key scopes -----------------------------------------------------------------------------------------------------
SCOPE_RUN: Final = 1
SCOPE_GLOBAL: Final = 2
SCOPE_ATTEMPT: Final = 3

# --- what a schedule does with missed instants, and when the previous run has not ended ------------------------------
MISFIRE_SKIP: Final = 1
MISFIRE_LATEST: Final = 2
MISFIRE_ALL: Final = 3

OVERLAP_ALLOW: Final = 1
OVERLAP_SKIP: Final = 2
OVERLAP_QUEUE: Final = 3
OVERLAP_CANCEL_PREVIOUS: Final = 4


# --- rows -----------------------------------------------------------------------------------------------------------
@dataclass(slots=True, eq=False)
class Run:
    """The hot row of a run: everything a transition reads or writes, and no payload."""

    id: bytes
    task: str
    version: str
    queue: str
    lane: str
    order_at: int
    status: int
    reason: int
    attempt: int
    max_attempts: int
    recoveries: int
    fence: int
    last_report: int  # the newest report of this fence that was applied; negative: this one was refused as invalid
    settled: int  # checkpoints settled so far: the source of settled_order
    pushed: int  # settled_order of the last settlement that was pushed to the worker (see Park in the contract)
    seen: int  # what of it the execution had seen when it parked
    last_seq: int
    session: bytes | None  # who executes it or holds its parked body
    pending: int  # checkpoints that are pending
    wake_at: (
        int | None
    )  # instant of its status: start when DELAYED, expiry or end of patience when QUEUED, end of grace
    timer_at: int | None  # earliest instant of a pending checkpoint
    deadline_at: int | None  # wall-clock limit of the run
    due_at: int | None  # the one timer: the next instant at which time alone changes the run
    started_at: int | None
    parent: bytes | None
    on_parent_end: int
    awaited: bool  # some run, batch or overlap policy waits for its end
    since: int = 0  # when it entered its status
    # Time spent in statuses that it has left, in microseconds; None for none. The rest of its life it executed.
    queued_us: int | None = None
    waiting_us: int | None = None
    delayed_us: int | None = None  # before it was queued for the first time
    backing_off_us: int | None = None  # before another attempt or recovery
    pinned: bool = False  # only workers of `version` may execute it, however long none is connected
    attempt_base: int | None = None  # see `run_machine.executed_us`; None for the first attempt

    @property
    def kind(self) -> Kind:
        """What decides which workers may start it."""
        return (self.task, self.version, self.pinned)


Kind = tuple[str, str, bool]
"""What decides which workers may start a run: its task, its version (empty: any) and whether it is pinned to that. One
that is not pinned stays with its version while a worker of that is connected, see `moving`."""


@dataclass(slots=True, eq=False)
class Checkpoint:
    """A durable record inside a run. `child_status`, and value and error of a child, are read from the child."""

    run_id: bytes
    seq: int
    identity: str
    kind: int
    name: str
    status: int
    fingerprint: bytes
    settled_order: int
    attempt: int
    permanent: bool
    value: bytes | None = None
    error: bytes | None = None
    subject: bytes | None = None
    is_cached: bool = False
    payload_differs: bool = False
    due_at: int | None = None
    location: str = ""
    failed_in: int | None = None  # the attempt in which it failed or was given up, if a later one than made it
    child_status: int = 0
    entries: list[BatchEntry] | None = None  # of a batch


@dataclass(slots=True, eq=False)
class BatchEntry:
    """One item of a batch; `status` 0 until it has ended. `error` is a serialized TaskError."""

    run_id: bytes | None
    is_cached: bool
    status: int
    output: bytes | None
    error: bytes | None
    payload_differs: bool = False


@dataclass(slots=True, eq=False)
class Inputs:
    """What a run was triggered with, as a start hands it to the worker."""

    payload: bytes
    tags: list[str]
    key: bytes | None
    trace: bytes | None
    parent: bytes | None
    root: bytes
    batch: bytes | None
    depth: int
    created_at: int
    is_replay: bool
    options: bytes | None = None


@dataclass(slots=True, eq=False)
class NewRun:
    """A run that somebody asks for; the edge has checked its text and sizes."""

    id: bytes
    task: str
    payload: bytes  # serialized Payload
    fingerprint: bytes
    id_chosen: bool = True  # whether the client chose the id
    key: KeyUse | None = None
    tags: list[str] = field(default_factory=list)
    metadata: bytes = b""
    options: bytes = b""  # serialized TriggerOptions, for display and replay
    trace: bytes = b""
    delay_us: int = 0
    start_at: int | None = None
    ttl_us: int | None = None
    timeout_us: int | None = None
    priority_us: int = 0
    queue: str = ""
    lane: str = ""
    max_attempts: int = 0
    version: str = ""  # only workers of this version may execute it
    on_parent_end: int = 0
    is_replay: bool = False
    schedule: bytes | None = None
    debounce: Debounce | None = None
    error: ItemFault | None = None  # the edge refused it: it stands in its place as a failed item
    # Set by the engine.
    parent: bytes | None = None
    root: bytes | None = None
    depth: int = 0
    batch: bytes | None = None
    waited: bool = False
    parent_version: str = ""  # it stays with the version of the run that waits for it, while a worker of that is there


@dataclass(slots=True, eq=False)
class KeyUse:
    """An idempotency key as used: `parts` is the unambiguous encoding, `scope` 0 means the default of the place."""

    parts: bytes
    scope: int
    ttl_us: int
    display: bytes  # serialized IdempotencyKey


@dataclass(slots=True, eq=False)
class Debounce:
    """Triggers with one key are merged until `delay_us` after the last, at the latest `max_us` after the first."""

    key: str
    delay_us: int
    leading: bool
    max_us: int | None


@dataclass(slots=True, eq=False)
class ItemFault:
    """Why an item could not become a run. `reason` is an ErrorReason's name, `code` a google.rpc.Code."""

    code: int
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Handle:
    """The run that a trigger made or found."""

    run_id: bytes
    is_cached: bool = False
    payload_differs: bool = False


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What a queue allows. 0 means no limit."""

    lane: int = 0  # runs of one lane (one concurrency key) that execute at once
    total: int = 0  # runs of all lanes that execute at once
    rate: int = 0  # starts in any `period_us`
    period_us: int = 0
    depth: int = 0  # runs that may be queued at once


NO_LIMITS: Final = QueueLimits()


@dataclass(slots=True, eq=False)
class QueueRow:
    """A queue with a row of its own: limits, an override or a pause."""

    name: str
    limits: QueueLimits
    overridden: bool = False  # UpdateQueue set the limits: they do not follow the code
    paused_at: int | None = None
    taken: tuple[tuple[int, int], ...] = ()  # rate limit: (instant, starts), see `admission`

    @property
    def gates_starts(self) -> bool:
        """Whether a start needs admission."""
        limits = self.limits
        return self.paused_at is not None or bool(limits.lane or limits.total or limits.rate)


@dataclass(slots=True, eq=False)
class TaskRow:
    """A task's newest definition: the serialized TaskDefinition and what the rules need of it."""

    id: str
    version: str
    definition: bytes
    registered_at: int
    max_attempts: int
    factor: float
    min_us: int
    max_us: int
    randomize: bool
    queue: str
    max_recoveries: int
    timeout_us: int | None
    ttl_us: int | None
    max_duration_us: int | None
    queue_limits: QueueLimits = NO_LIMITS
    waits: bool = False  # a run that has started on this version never moves to another


@dataclass(slots=True, eq=False)
class Schedule:
    """A schedule's row. It fires while `active` and, if it is `declared`, not `withdrawn`; only then it has an instant
    `next_at`."""

    id: bytes
    task: str
    cron: str
    timezone: str
    misfire: int
    overlap: int
    created_at: int
    external_id: str = ""
    key: str | None = None  # deduplication key
    options: bytes = b""  # serialized TriggerOptions
    declared: bool = False  # beside its task in code
    withdrawn: bool = False  # the task's newest version no longer declares it
    active: bool = True
    next_at: int | None = None
    last_at: int | None = None
    last_run: bytes | None = None  # of the last instant that fired
    waiting: str = ""  # instants that wait for its end, separated by spaces
    skipped: int = 0
    last_skipped_at: int | None = None
    last_skip_reason: str = ""


# --- commands: what the edge asks of the engine ----------------------------------------------------------------------
@dataclass(slots=True, eq=False)
class TriggerRuns:
    """Unrelated runs. Outcome: list[Handle | ItemFault], one per item."""

    namespace: str
    items: list[NewRun]


@dataclass(slots=True, eq=False)
class TriggerBatch:
    """A batch. Outcome: BatchOutcome."""

    namespace: str
    batch_id: bytes
    items: list[NewRun]
    key: KeyUse | None
    id_chosen: bool


@dataclass(slots=True, eq=False)
class BatchOutcome:
    """The answer to TriggerBatch."""

    batch_id: bytes
    is_cached: bool
    outcomes: list[Handle | ItemFault]
    payload_differs: bool = False  # the batch that its key named was triggered with other items


@dataclass(slots=True, eq=False)
class CancelRun:
    """Outcome: bool (accepted) or ItemFault(RUN_NOT_FOUND)."""

    namespace: str
    run_id: bytes


@dataclass(slots=True, eq=False)
class RescheduleRun:
    """Outcome: None or ItemFault (RUN_NOT_FOUND, WRONG_STATUS)."""

    namespace: str
    run_id: bytes
    delay_us: int | None
    start_at: int | None


@dataclass(slots=True, eq=False)
class ResetKey:
    """Outcome: bool (existed). `kind` is "run"; `within` is the run id (scopes run, attempt) or b""."""

    namespace: str
    task: str
    key: KeyUse
    within: bytes
    attempt: int


@dataclass(slots=True, eq=False)
class PauseQueue:
    """Pauses a queue or ends its pause. Outcome: None."""

    namespace: str
    name: str
    paused: bool


@dataclass(slots=True, eq=False)
class UpdateQueue:
    """Overrides the limits of a queue; None takes the override away. Outcome: None."""

    namespace: str
    name: str
    limits: QueueLimits | None


@dataclass(slots=True, eq=False)
class CreateSchedule:
    """Creates a schedule, or updates the one that has its deduplication key. Outcome: bytes (its id) or ItemFault
    (TASK_NOT_FOUND, ID_REUSED, LIMIT_EXCEEDED)."""

    namespace: str
    schedule: Schedule


@dataclass(slots=True, eq=False)
class UpdateSchedule:
    """Replaces columns of a schedule; `key`, if there is one, must be what it has. Outcome: None or ItemFault
    (SCHEDULE_NOT_FOUND, TASK_NOT_FOUND, WRONG_STATUS, INVALID_ARGUMENT)."""

    namespace: str
    schedule_id: bytes
    changes: dict[str, Any]
    key: str


@dataclass(slots=True, eq=False)
class ActivateSchedule:
    """Activates or deactivates a schedule. Outcome: None or ItemFault (SCHEDULE_NOT_FOUND, WRONG_STATUS)."""

    namespace: str
    schedule_id: bytes
    active: bool


@dataclass(slots=True, eq=False)
class DeleteSchedule:
    """Outcome: None or ItemFault (SCHEDULE_NOT_FOUND, WRONG_STATUS)."""

    namespace: str
    schedule_id: bytes


@dataclass(slots=True, eq=False)
class CreateToken:
    """Outcome: tuple[bytes token id, bool is_cached] or ItemFault."""

    namespace: str
    token_id: bytes
    timeout_us: int | None
    tags: list[str]
    key: KeyUse | None


@dataclass(slots=True, eq=False)
class SettleToken:
    """Completes (`error` empty) or fails a token. Outcome: bool (won) or ItemFault(TOKEN_NOT_FOUND)."""

    namespace: str
    token_id: bytes
    data: bytes
    error: bytes


# --- what workers report ---------------------------------------------------------------------------------------------
@dataclass(slots=True, eq=False)
class Record:
    """A durable call that makes a checkpoint. `kind` is a checkpoint kind."""

    seq: int
    identity: str
    kind: int
    name: str
    fingerprint: bytes = b""
    location: str = ""
    age_us: int = 0  # how long before its report was sent the body made the call
    timeout_us: int | None = None
    value: bytes | None = None  # STEP
    error: bytes | None = None  # STEP
    permanent: bool = False  # STEP
    delay_us: int | None = None  # WAIT
    until: int | None = None  # WAIT
    items: list[NewRun] = field(default_factory=list)  # CHILD, TRIGGER: one; BATCH, BATCH_TRIGGER: several
    subject: bytes | None = None  # BATCH, BATCH_TRIGGER, TOKEN, TOKEN_WAIT: the batch or token
    key: KeyUse | None = None  # BATCH, BATCH_TRIGGER, TOKEN
    tags: list[str] = field(default_factory=list)  # TOKEN
    shielded: bool = False  # made by clean-up: accepted during a cancellation


@dataclass(slots=True, eq=False)
class MetadataOp:
    """One metadata operation; see the contract. `value` is JSON."""

    target: int
    verb: int
    key: str
    value: bytes
    branch: str
    number: int
    provisional: bool


@dataclass(slots=True, eq=False)
class Report:
    """One atomic change of one run under a fence. `event` is "" or an event of run_machine."""

    run_id: bytes
    fence: int
    number: int
    event: str = ""
    output: bytes | None = None
    error: bytes | None = None
    retryable: bool = False
    timed_out: bool = False
    retry_delay_us: int | None = None
    seen: int = 0
    records: list[Record] = field(default_factory=list)
    abandoned: list[int] = field(default_factory=list)
    metadata: list[MetadataOp] = field(default_factory=list)
    logs: list[bytes] = field(default_factory=list)
    add_tags: list[str] = field(default_factory=list)
    invalid: str = ""  # why the edge refuses it


# Why a report changed nothing: the contract's RefusalReason.
REFUSED_STALE: Final = 1
REFUSED_CANCELING: Final = 2
REFUSED_ENDED: Final = 3
REFUSED_INVALID: Final = 4


@dataclass(slots=True, eq=False)
class Refusal:
    """A report that changed nothing."""

    run_id: bytes
    fence: int
    number: int
    reason: int
    message: str = ""


@dataclass(slots=True, eq=False)
class RunEnd:
    """How a run ended; `output` is a serialized Payload, `error` a serialized TaskError. Shared, so never changed."""

    run_id: bytes
    status: int
    output: bytes | None
    error: bytes | None


@dataclass(slots=True, eq=False)
class Order:
    """A run that a session shall start (`inputs` set) or resume in place (`inputs` None)."""

    run: Run
    inputs: Inputs | None
    checkpoints: list[Checkpoint]
    metadata: bytes = b""
    marks: bytes = b""
    max_duration_us: int | None = None
    executed_us: int = 0  # what this attempt has executed before
    is_reentry: bool = False


@dataclass(slots=True, eq=False)
class Delivery:
    """What one commit brings to one session."""

    updates: list[tuple[bytes, int, Checkpoint]] = field(default_factory=list)  # run, fence, checkpoint
    refused: list[Refusal] = field(default_factory=list)
    cancels: list[tuple[bytes, int]] = field(default_factory=list)
    drops: list[tuple[bytes, int, str]] = field(default_factory=list)
    answers_held: bool = False  # it ends a reconnect exchange
    resumes: list[Order] = field(default_factory=list)
    starts: list[Order] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Left:
    """What one commit has left for other replicas and for the next commit."""

    places: set[tuple[str, str, Kind]] = field(default_factory=set)  # queue, lane and kind of runs that were queued
    bodies: bool = False  # woken bodies wait that workers of other replicas hold
    opened: set[str] = field(default_factory=set)  # limited queues of which slots became free or limits changed
    again: bool = False  # a further look would start more
    events: bool = False  # effects on other runs wait in `pending_events`


# --- commands of sessions and of time --------------------------------------------------------------------------------
@dataclass(slots=True, eq=False)
class ApplyReports:
    """A frame of reports of a session. Outcome: None; acknowledgement and refusals travel in the session's delivery."""

    namespace: str
    session: bytes
    frame_no: int
    reports: list[Report]
    arrived_at: float | None = None
    """Of the monotonic clock, seconds."""
    waited_us: int = 0
    """How long ago it had arrived when its commit began."""


@dataclass(slots=True, eq=False)
class OpenSession:
    """A new session. Outcome: int (connection number)."""

    namespace: str
    session: bytes
    secret: bytes  # SHA-256
    worker: str
    version: str
    definitions: list[TaskRow]


@dataclass(slots=True, eq=False)
class ResumeSession:
    """A session that reconnects. Outcome: int (connection number), or None when the session is gone."""

    namespace: str
    session: bytes
    secret: bytes  # SHA-256
    definitions: list[TaskRow]


@dataclass(slots=True, eq=False)
class ReconcileHeld:
    """What a reconnected session holds. Outcome: None; drops, cancels, updates and resumes travel in its delivery."""

    namespace: str
    session: bytes
    held: dict[bytes, int]  # run → fence


@dataclass(slots=True, eq=False)
class RenewSession:
    """Outcome: bool; False when the session is gone."""

    namespace: str
    session: bytes


@dataclass(slots=True, eq=False)
class EndSession:
    """The session is over. With `lost` what it executed counts as a recovery, else it is released. Given a
    `connection_no`, nothing happens if the session has connected again since; without one, nothing happens while its
    lease is live. Outcome: bool (it ended now)."""

    namespace: str
    session: bytes
    lost: bool
    evidence: str
    connection_no: int | None = None


@dataclass(slots=True, eq=False)
class RunsDue:
    """Timers of these runs have come. Outcome: None."""

    namespace: str
    run_ids: list[bytes]


@dataclass(slots=True, eq=False)
class TokensDue:
    """Timeouts of these tokens have come. Outcome: None."""

    namespace: str
    token_ids: list[bytes]


@dataclass(slots=True, eq=False)
class SchedulesDue:
    """Instants of these schedules have come. Outcome: None."""

    namespace: str
    schedule_ids: list[bytes]


@dataclass(slots=True, eq=False)
class CatchUp:
    """Tell a session what other replicas have changed of its runs. Outcome: bool; False when it has connected elsewhere
    since, or has ended. What it must learn travels in its delivery."""

    namespace: str
    session: bytes
    connection_no: int
    told: dict[bytes, int]  # run that its worker holds → highest settled_order it was told; read when it is carried out


@dataclass(slots=True, eq=False)
class Look:
    """Nothing but a look at what may be claimed, also in `queues` that were found closed. Outcome: None."""

    namespace: str
    queues: list[str] = field(default_factory=list)


Place = tuple[int, bytes]
"""Where a look at what has ended has got: an instant and an id."""


@dataclass(slots=True, eq=False)
class Forget:
    """Delete a batch of what had ended a retention ago: `what` is "runs", "batches", "tokens" or "keys". Outcome:
    Forgotten."""

    namespace: str
    what: str
    after: Place


@dataclass(slots=True, eq=False)
class Forgotten:
    """How many were deleted, where the next batch goes on (None: there is none), and up to where was looked then."""

    deleted: int
    after: Place | None
    up_to: Place


@dataclass(slots=True, eq=False)
class Tick:
    """The look of each second, at what nobody else would move: overdue timers, expired sessions, postponed events.
    Outcome: (now, rows), where the rows are (namespace, id, next_at) of schedules whose next instants come before the
    look after next."""

    namespace: str = ""
    expire_sessions: bool = True


@dataclass(slots=True, eq=False)
class DrainEvents:
    """Take up effects on other runs that an earlier commit had no room for. Outcome: None."""

    namespace: str = ""


Command = Any
"""One of the commands above."""
