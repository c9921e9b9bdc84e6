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

# --- what happens to a child when its parent ends without success ------------------------------------------------------
ON_PARENT_END_CANCEL: Final = 1
ON_PARENT_END_DETACH: Final = 2

# --- key scopes -----------------------------------------------------------------------------------------------------
SCOPE_RUN: Final = 1
SCOPE_GLOBAL: Final = 2
SCOPE_ATTEMPT: Final = 3


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
    last_report: int
    settled: int  # checkpoints settled so far: the source of settled_order
    pushed: int  # settled_order of the last settlement that was pushed to the worker (see Park in the contract)
    last_seq: int
    session: bytes | None  # who executes it or holds its parked body
    wake_at: int | None  # instant of its status: start, earliest pending timed checkpoint, expiry, end of grace
    deadline_at: int | None  # wall-clock limit of the run
    due_at: int | None  # min(wake_at, deadline_at): the one timer
    started_at: int | None
    parent: bytes | None
    on_parent_end: int
    awaited: bool  # some run, batch or overlap policy waits for its end


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
    version: str = ""
    on_parent_end: int = 0
    is_replay: bool = False
    debounce: Debounce | None = None
    error: ItemFault | None = None  # the edge refused it: it stands in its place as a failed item
    # Set by the engine.
    parent: bytes | None = None
    root: bytes | None = None
    depth: int = 0
    batch: bytes | None = None
    waited: bool = False


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


# --- commands: what the edge asks of the engine -------------------------------------------------------------------------
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


Command = Any  # one of the above, or of the engine's own (see commit_loop)
