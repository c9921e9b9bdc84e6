"""Every table, in SQLAlchemy Core. `migrations/` builds the same; a test compares the two.

`runs` is hot and narrow. Everything else of a run is inserted once beside it, so that a transition is one narrow update
that copies no payload. The first column of every key is the namespace. Instants are BIGINT microseconds UTC. Ids are
16-byte UUIDv7.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)

metadata = MetaData()


def _required(name: str, kind: type, default: str | None = None) -> Column:  # type: ignore[type-arg]
    return Column(name, kind, nullable=False, server_default=text(default) if default is not None else None)


# Fill factor 70 leaves room on each page for the new version of an updated row (PostgreSQL "HOT" updates).
runs = Table(
    "runs",
    metadata,
    _required("namespace", Text),
    _required("id", LargeBinary),
    _required("task", Text),
    _required("version", Text, "''"),
    _required("queue", Text),
    _required("lane", Text, "''"),
    _required("order_at", BigInteger),
    _required("status", SmallInteger),
    _required("reason", SmallInteger, "0"),
    _required("attempt", Integer, "0"),
    _required("max_attempts", Integer, "1"),
    _required("recoveries", Integer, "0"),
    _required("fence", Integer, "0"),
    _required("last_report", Integer, "0"),
    _required("settled", Integer, "0"),
    _required("pushed", Integer, "0"),
    _required("seen", Integer, "0"),
    _required("last_seq", Integer, "0"),
    Column("session", LargeBinary),
    _required("pending", Integer, "0"),
    Column("wake_at", BigInteger),
    Column("timer_at", BigInteger),
    Column("deadline_at", BigInteger),
    Column("due_at", BigInteger),
    Column("started_at", BigInteger),
    Column("parent", LargeBinary),
    _required("on_parent_end", SmallInteger, "0"),
    _required("awaited", Boolean, "false"),
    _required("since", BigInteger, "0"),
    # Time spent so far in statuses that it has left; NULL, which takes no room, for none.
    Column("queued_us", BigInteger),
    Column("waiting_us", BigInteger),
    Column("delayed_us", BigInteger),
    Column("backing_off_us", BigInteger),
    _required("pinned", Boolean, "false"),
    Column("attempt_base", BigInteger),
    PrimaryKeyConstraint("namespace", "id", name="runs_pkey"),
    # Ranges, not a list of more than two numbers: for that SQLite builds a table, for each row it writes.
    CheckConstraint("status BETWEEN 1 AND 5 OR status BETWEEN 10 AND 15", name="runs_status"),
    CheckConstraint("status NOT IN (3, 5) OR session IS NOT NULL", name="runs_executing_has_session"),
    CheckConstraint("status < 10 OR (session IS NULL AND due_at IS NULL)", name="runs_final_is_quiet"),
    CheckConstraint("status <> 1 OR due_at IS NOT NULL", name="runs_delayed_has_due"),
    CheckConstraint("attempt >= 0 AND recoveries >= 0 AND fence >= 0", name="runs_counters"),
    postgresql_with={"fillfactor": "70"},
)
# What may be claimed, lane by lane; task, version and pin are in it so that a backlog which nobody can take is never
# read.
Index(
    "runs_claimable",
    runs.c.namespace,
    runs.c.queue,
    runs.c.lane,
    runs.c.task,
    runs.c.version,
    runs.c.pinned,
    runs.c.order_at,
    runs.c.id,
    postgresql_where=text("status = 2 AND session IS NULL"),
    sqlite_where=text("status = 2 AND session IS NULL"),
)
# What holds a slot of its queue: EXECUTING and CANCELING.
Index(
    "runs_occupying",
    runs.c.namespace,
    runs.c.queue,
    runs.c.lane,
    postgresql_where=text("status IN (3, 5)"),
    sqlite_where=text("status IN (3, 5)"),
)
Index("runs_due", runs.c.due_at, postgresql_where=text("due_at IS NOT NULL"), sqlite_where=text("due_at IS NOT NULL"))
Index(
    "runs_session",
    runs.c.session,
    postgresql_where=text("session IS NOT NULL"),
    sqlite_where=text("session IS NOT NULL"),
)
Index(
    "runs_open_children",
    runs.c.namespace,
    runs.c.parent,
    postgresql_where=text("status < 10 AND parent IS NOT NULL"),
    sqlite_where=text("status < 10 AND parent IS NOT NULL"),
)

# Which open runs have a status, for lists: DELAYED, QUEUED, WAITING. What executes is found by `runs_occupying`. The
# plus keeps SQLite from looking for a range where the list asks for one status.
Index(
    "runs_open",
    runs.c.namespace,
    runs.c.status,
    runs.c.id,
    postgresql_where=text("+status < 5 AND status <> 3"),
    sqlite_where=text("+status < 5 AND status <> 3"),
)

run_inputs = Table(
    "run_inputs",
    metadata,
    _required("namespace", Text),
    _required("run_id", LargeBinary),
    _required("task", Text),
    _required("queue", Text, "''"),  # '' for the task's own, as most are
    _required("off_clock", Boolean, "false"),  # its id tells another instant than `created_at`, see `ids`
    _required("created_at", BigInteger),
    Column("parent", LargeBinary),
    Column("root", LargeBinary),
    Column("batch", LargeBinary),
    _required("depth", Integer, "0"),
    _required("payload", LargeBinary),
    _required("fingerprint", LargeBinary),
    _required("tags", Text, "''"),  # JSON list, '' when none
    Column("key", LargeBinary),  # serialized IdempotencyKey
    Column("options", LargeBinary),  # serialized TriggerOptions
    Column("trace", LargeBinary),
    _required("is_replay", Boolean, "false"),
    Column("schedule", LargeBinary),  # what triggered it by the clock
    PrimaryKeyConstraint("namespace", "run_id", name="run_inputs_pkey"),
)
Index(
    "run_inputs_children",
    run_inputs.c.namespace,
    run_inputs.c.parent,
    run_inputs.c.run_id,
    postgresql_where=text("parent IS NOT NULL"),
    sqlite_where=text("parent IS NOT NULL"),
)
# Lists: an index that each run enters costs each trigger, so what is rare has an index of its own.
Index("run_inputs_task", run_inputs.c.namespace, run_inputs.c.task, run_inputs.c.run_id)
Index(
    "run_inputs_off_clock",
    run_inputs.c.namespace,
    run_inputs.c.created_at,
    run_inputs.c.run_id,
    postgresql_where=text("off_clock"),
    sqlite_where=text("off_clock"),
)
Index(
    "run_inputs_queue",
    run_inputs.c.namespace,
    run_inputs.c.queue,
    run_inputs.c.run_id,
    postgresql_where=text("queue <> ''"),
    sqlite_where=text("queue <> ''"),
)

Index(
    "run_inputs_schedule",
    run_inputs.c.namespace,
    run_inputs.c.schedule,
    run_inputs.c.run_id,
    postgresql_where=text("schedule IS NOT NULL"),
    sqlite_where=text("schedule IS NOT NULL"),
)

run_tags = Table(
    "run_tags",
    metadata,
    _required("namespace", Text),
    _required("tag", Text),
    _required("run_id", LargeBinary),
    PrimaryKeyConstraint("namespace", "tag", "run_id", name="run_tags_pkey"),
)

run_results = Table(
    "run_results",
    metadata,
    _required("namespace", Text),
    _required("run_id", LargeBinary),
    Column("output", LargeBinary),  # serialized Payload
    Column("error", LargeBinary),  # serialized TaskError
    _required("ended_at", BigInteger),
    Column("worker", Text),  # who executed the last attempt
    _required("status", SmallInteger),
    PrimaryKeyConstraint("namespace", "run_id", name="run_results_pkey"),
)
Index("run_results_ended", run_results.c.namespace, run_results.c.ended_at, run_results.c.run_id)
Index(
    "run_results_failed",
    run_results.c.namespace,
    run_results.c.status,
    run_results.c.run_id,
    postgresql_where=text("status > 10"),
    sqlite_where=text("status > 10"),
)

# Attempts that ended without ending the run, and executions whose worker was lost. The last attempt of a run is read
# from `runs` and `run_results`: a run that succeeds at once writes no row here.
attempts = Table(
    "attempts",
    metadata,
    _required("namespace", Text),
    _required("run_id", LargeBinary),
    _required("fence", Integer),
    _required("number", Integer),
    _required("state", SmallInteger),
    Column("started_at", BigInteger),
    _required("ended_at", BigInteger),
    Column("worker", Text),
    Column("error", LargeBinary),
    PrimaryKeyConstraint("namespace", "run_id", "fence", name="attempts_pkey"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _required("namespace", Text),
    _required("run_id", LargeBinary),
    _required("seq", Integer),
    _required("identity", Text),
    _required("kind", SmallInteger),
    _required("name", Text),
    _required("status", SmallInteger),
    _required("fingerprint", LargeBinary),
    _required("settled_order", Integer, "0"),
    _required("attempt", Integer),
    _required("permanent", Boolean, "false"),
    Column("value", LargeBinary),  # serialized Payload
    Column("error", LargeBinary),  # serialized TaskError
    Column("subject", LargeBinary),  # child, batch or token
    _required("is_cached", Boolean, "false"),
    _required("payload_differs", Boolean, "false"),
    Column("due_at", BigInteger),
    _required("location", Text, "''"),
    Column("failed_in", Integer),  # attempt in which it failed or was given up, if a later one than made it
    PrimaryKeyConstraint("namespace", "run_id", "seq", name="checkpoints_pkey"),
    CheckConstraint("status BETWEEN 1 AND 4", name="checkpoints_status"),
    CheckConstraint("(status = 1) = (settled_order = 0) OR status = 4", name="checkpoints_settled"),
)
# Who waits for a run, a batch or a token, and who still needs it.
Index(
    "checkpoints_subject",
    checkpoints.c.namespace,
    checkpoints.c.subject,
    postgresql_where=text("subject IS NOT NULL"),
    sqlite_where=text("subject IS NOT NULL"),
)

batches = Table(
    "batches",
    metadata,
    _required("namespace", Text),
    _required("id", LargeBinary),
    _required("remaining", Integer),  # items that have not ended
    _required("fingerprint", LargeBinary),
    _required("created_at", BigInteger),
    Column("key", LargeBinary),
    PrimaryKeyConstraint("namespace", "id", name="batches_pkey"),
)
batch_items = Table(
    "batch_items",
    metadata,
    _required("namespace", Text),
    _required("batch", LargeBinary),
    _required("place", Integer),  # input order, from 0
    Column("run_id", LargeBinary),
    _required("is_cached", Boolean, "false"),
    _required("payload_differs", Boolean, "false"),
    Column("error", LargeBinary),  # serialized TaskError of an item that could not become a run
    PrimaryKeyConstraint("namespace", "batch", "place", name="batch_items_pkey"),
)
Index("batch_items_run", batch_items.c.namespace, batch_items.c.run_id)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    _required("namespace", Text),
    _required("kind", Text),  # "run", "batch", "token" or "debounce"
    _required("task", Text),
    _required("hash", LargeBinary),
    _required("subject", LargeBinary),
    _required("expires_at", BigInteger),
    PrimaryKeyConstraint("namespace", "kind", "task", "hash", name="idempotency_keys_pkey"),
)
Index("idempotency_keys_expiry", idempotency_keys.c.expires_at)
Index("idempotency_keys_subject", idempotency_keys.c.namespace, idempotency_keys.c.subject)

run_metadata = Table(
    "run_metadata",
    metadata,
    _required("namespace", Text),
    _required("run_id", LargeBinary),
    _required("committed", LargeBinary),  # JSON object
    _required("live", LargeBinary),  # JSON object: committed plus what is provisional
    _required("marks", LargeBinary),  # JSON object: branch → highest committed operation
    _required("fence", Integer, "0"),  # the fence that wrote `live`
    _required("live_marks", LargeBinary),  # JSON object: branch → highest operation in `live`
    PrimaryKeyConstraint("namespace", "run_id", name="run_metadata_pkey"),
)

run_logs = Table(
    "run_logs",
    metadata,
    _required("namespace", Text),
    _required("run_id", LargeBinary),
    _required("fence", Integer),
    _required("report", Integer),
    _required("place", Integer),
    _required("record", LargeBinary),  # serialized LogRecord
    PrimaryKeyConstraint("namespace", "run_id", "fence", "report", "place", name="run_logs_pkey"),
)

tokens = Table(
    "tokens",
    metadata,
    _required("namespace", Text),
    _required("id", LargeBinary),
    _required("status", SmallInteger),
    _required("tags", Text, "''"),
    _required("created_at", BigInteger),
    Column("timeout_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("data", LargeBinary),
    Column("error", LargeBinary),
    Column("key", LargeBinary),
    PrimaryKeyConstraint("namespace", "id", name="tokens_pkey"),
    CheckConstraint("status BETWEEN 1 AND 4", name="tokens_status"),
)
Index(
    "tokens_due",
    tokens.c.timeout_at,
    postgresql_where=text("status = 1 AND timeout_at IS NOT NULL"),
    sqlite_where=text("status = 1 AND timeout_at IS NOT NULL"),
)

tasks = Table(
    "tasks",
    metadata,
    _required("namespace", Text),
    _required("id", Text),
    _required("version", Text),
    _required("registered_at", BigInteger),  # that of the version: the newest definition is the task's
    _required("definition", LargeBinary),  # serialized TaskDefinition
    _required("queue", Text, "''"),  # name of its queue
    PrimaryKeyConstraint("namespace", "id", "version", name="tasks_pkey"),
)

# A version is as old as its first announcement, by whatever worker, to whatever scheduler.
versions = Table(
    "versions",
    metadata,
    _required("namespace", Text),
    _required("version", Text),
    _required("registered_at", BigInteger),
    Column("left_at", BigInteger),  # when the last session of one of its workers ended
    PrimaryKeyConstraint("namespace", "version", name="versions_pkey"),
)

# Queues that have, or once had, limits of their own, an override or a pause. All others have no row.
queues = Table(
    "queues",
    metadata,
    _required("namespace", Text),
    _required("name", Text),
    _required("concurrency_limit", Integer, "0"),
    _required("total_limit", Integer, "0"),
    _required("rate_limit", Integer, "0"),
    _required("rate_period", BigInteger, "0"),
    _required("depth_limit", Integer, "0"),
    _required("overridden", Boolean, "false"),
    Column("paused_at", BigInteger),
    _required("taken", Text, "''"),  # rate limit: the starts that count, see `admission`
    PrimaryKeyConstraint("namespace", "name", name="queues_pkey"),
)

# A number that grows with every change of a queue or a task's definition. Schedulers keep both in memory and read them
# again when it differs; each commit reads it together with the clock.
queue_changes = Table(
    "queue_changes",
    metadata,
    _required("namespace", Text),
    _required("number", BigInteger),
    PrimaryKeyConstraint("namespace", name="queue_changes_pkey"),
)

schedules = Table(
    "schedules",
    metadata,
    _required("namespace", Text),
    _required("id", LargeBinary),
    _required("task", Text),
    _required("cron", Text),
    _required("timezone", Text),
    _required("misfire", SmallInteger),
    _required("overlap", SmallInteger),
    _required("created_at", BigInteger),
    _required("external_id", Text, "''"),
    Column("key", Text),  # deduplication key
    _required("options", LargeBinary),  # serialized TriggerOptions
    _required("declared", Boolean, "false"),
    _required("withdrawn", Boolean, "false"),
    _required("active", Boolean, "true"),
    Column("next_at", BigInteger),
    Column("last_at", BigInteger),
    Column("last_run", LargeBinary),
    _required("waiting", Text, "''"),  # instants, separated by spaces
    _required("skipped", BigInteger, "0"),
    Column("last_skipped_at", BigInteger),
    _required("last_skip_reason", Text, "''"),
    PrimaryKeyConstraint("namespace", "id", name="schedules_pkey"),
    CheckConstraint("misfire IN (1, 2, 3) AND overlap IN (1, 2, 3, 4)", name="schedules_policies"),
    CheckConstraint("next_at IS NULL OR (active AND NOT withdrawn)", name="schedules_idle_is_quiet"),
    CheckConstraint("waiting = '' OR (active AND NOT withdrawn)", name="schedules_idle_waits_for_nothing"),
)
Index(
    "schedules_due",
    schedules.c.next_at,
    postgresql_where=text("next_at IS NOT NULL"),
    sqlite_where=text("next_at IS NOT NULL"),
)
Index(
    "schedules_key",
    schedules.c.namespace,
    schedules.c.key,
    unique=True,
    postgresql_where=text("key IS NOT NULL"),
    sqlite_where=text("key IS NOT NULL"),
)
# A task declares one schedule.
Index(
    "schedules_declared",
    schedules.c.namespace,
    schedules.c.task,
    unique=True,
    postgresql_where=text("declared"),
    sqlite_where=text("declared"),
)
Index(
    "schedules_waiting",
    schedules.c.namespace,
    schedules.c.last_run,
    postgresql_where=text("waiting <> ''"),
    sqlite_where=text("waiting <> ''"),
)

sessions = Table(
    "sessions",
    metadata,
    _required("namespace", Text),
    _required("id", LargeBinary),
    _required("secret", LargeBinary),  # SHA-256 of it
    _required("connection_no", BigInteger),
    _required("replica", LargeBinary),
    _required("lease_until", BigInteger),
    _required("worker", Text),
    _required("version", Text),
    _required("tasks", Text, "'[]'"),  # JSON list
    PrimaryKeyConstraint("namespace", "id", name="sessions_pkey"),
    postgresql_with={"fillfactor": "50"},
)
Index("sessions_lease", sessions.c.lease_until)

# Effects on other runs that did not fit in the commit that caused them; drained first.
pending_events = Table(
    "pending_events",
    metadata,
    _required("namespace", Text),
    _required("id", LargeBinary),
    _required("kind", SmallInteger),
    _required("run_id", LargeBinary),
    PrimaryKeyConstraint("namespace", "id", name="pending_events_pkey"),
)
