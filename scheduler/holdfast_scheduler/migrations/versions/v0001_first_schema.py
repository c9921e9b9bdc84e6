"""The first schema: runs and everything beside them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "attempts",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("run_id", sa.LargeBinary(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("error", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("namespace", "run_id", "fence", name="attempts_pkey"),
    )
    op.create_table(
        "batch_items",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("batch", sa.LargeBinary(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.LargeBinary(), nullable=True),
        sa.Column("is_cached", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("payload_differs", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("error", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("namespace", "batch", "place", name="batch_items_pkey"),
    )
    op.create_index("batch_items_run", "batch_items", ["namespace", "run_id"])
    op.create_table(
        "batches",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("remaining", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("namespace", "id", name="batches_pkey"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("run_id", sa.LargeBinary(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("settled_order", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("permanent", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("error", sa.LargeBinary(), nullable=True),
        sa.Column("subject", sa.LargeBinary(), nullable=True),
        sa.Column("is_cached", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("payload_differs", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("location", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint("(status = 1) = (settled_order = 0) OR status = 4", name="checkpoints_settled"),
        sa.CheckConstraint("status IN (1, 2, 3, 4)", name="checkpoints_status"),
        sa.PrimaryKeyConstraint("namespace", "run_id", "seq", name="checkpoints_pkey"),
    )
    op.create_index(
        "checkpoints_subject",
        "checkpoints",
        ["namespace", "subject"],
        postgresql_where=sa.text("subject IS NOT NULL"),
        sqlite_where=sa.text("subject IS NOT NULL"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "kind", "task", "hash", name="idempotency_keys_pkey"),
    )
    op.create_index("idempotency_keys_expiry", "idempotency_keys", ["expires_at"])
    op.create_index("idempotency_keys_subject", "idempotency_keys", ["namespace", "subject"])
    op.create_table(
        "pending_events",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("run_id", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id", name="pending_events_pkey"),
    )
    op.create_table(
        "queue_changes",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", name="queue_changes_pkey"),
    )
    op.create_table(
        "queues",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("concurrency_limit", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("total_limit", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("rate_limit", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("rate_period", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("depth_limit", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("overridden", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("paused_at", sa.BigInteger(), nullable=True),
        sa.Column("taken", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name", name="queues_pkey"),
    )
    op.create_table(
        "run_inputs",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("run_id", sa.LargeBinary(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("off_clock", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("parent", sa.LargeBinary(), nullable=True),
        sa.Column("root", sa.LargeBinary(), nullable=True),
        sa.Column("batch", sa.LargeBinary(), nullable=True),
        sa.Column("depth", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("tags", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("options", sa.LargeBinary(), nullable=True),
        sa.Column("trace", sa.LargeBinary(), nullable=True),
        sa.Column("is_replay", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("schedule", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("namespace", "run_id", name="run_inputs_pkey"),
    )
    op.create_index("run_inputs_task", "run_inputs", ["namespace", "task", "run_id"])
    op.create_index(
        "run_inputs_off_clock",
        "run_inputs",
        ["namespace", "created_at", "run_id"],
        postgresql_where=sa.text("off_clock"),
        sqlite_where=sa.text("off_clock"),
    )
    op.create_index(
        "run_inputs_queue",
        "run_inputs",
        ["namespace", "queue", "run_id"],
        postgresql_where=sa.text("queue <> ''"),
        sqlite_where=sa.text("queue <> ''"),
    )
    op.create_index(
        "run_inputs_children",
        "run_inputs",
        ["namespace", "parent", "run_id"],
        postgresql_where=sa.text("parent IS NOT NULL"),
        sqlite_where=sa.text("parent IS NOT NULL"),
    )
    op.create_index(
        "run_inputs_schedule",
        "run_inputs",
        ["namespace", "schedule", "run_id"],
        postgresql_where=sa.text("schedule IS NOT NULL"),
        sqlite_where=sa.text("schedule IS NOT NULL"),
    )
    op.create_table(
        "run_logs",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("run_id", sa.LargeBinary(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("report", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "fence", "report", "place", name="run_logs_pkey"),
    )
    op.create_table(
        "run_metadata",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("run_id", sa.LargeBinary(), nullable=False),
        sa.Column("committed", sa.LargeBinary(), nullable=False),
        sa.Column("live", sa.LargeBinary(), nullable=False),
        sa.Column("marks", sa.LargeBinary(), nullable=False),
        sa.Column("fence", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("live_marks", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", name="run_metadata_pkey"),
    )
    op.create_table(
        "run_results",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("run_id", sa.LargeBinary(), nullable=False),
        sa.Column("output", sa.LargeBinary(), nullable=True),
        sa.Column("error", sa.LargeBinary(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", name="run_results_pkey"),
    )
    op.create_index("run_results_ended", "run_results", ["namespace", "ended_at", "run_id"])
    op.create_index(
        "run_results_failed",
        "run_results",
        ["namespace", "status", "run_id"],
        postgresql_where=sa.text("status > 10"),
        sqlite_where=sa.text("status > 10"),
    )
    op.create_table(
        "run_tags",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("run_id", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "tag", "run_id", name="run_tags_pkey"),
    )
    op.create_table(
        "runs",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("order_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("recoveries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("fence", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_report", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("settled", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("pushed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("seen", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_seq", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("session", sa.LargeBinary(), nullable=True),
        sa.Column("pending", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("wake_at", sa.BigInteger(), nullable=True),
        sa.Column("timer_at", sa.BigInteger(), nullable=True),
        sa.Column("deadline_at", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("parent", sa.LargeBinary(), nullable=True),
        sa.Column("on_parent_end", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("awaited", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("since", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("queued_us", sa.BigInteger(), nullable=True),
        sa.Column("waiting_us", sa.BigInteger(), nullable=True),
        sa.Column("delayed_us", sa.BigInteger(), nullable=True),
        sa.Column("backing_off_us", sa.BigInteger(), nullable=True),
        sa.Column("pinned", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("attempt_base", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("attempt >= 0 AND recoveries >= 0 AND fence >= 0", name="runs_counters"),
        sa.CheckConstraint("status < 10 OR (session IS NULL AND due_at IS NULL)", name="runs_final_is_quiet"),
        sa.CheckConstraint("status <> 1 OR due_at IS NOT NULL", name="runs_delayed_has_due"),
        sa.CheckConstraint("status IN (1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15)", name="runs_status"),
        sa.CheckConstraint("status NOT IN (3, 5) OR session IS NOT NULL", name="runs_executing_has_session"),
        sa.PrimaryKeyConstraint("namespace", "id", name="runs_pkey"),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "runs_open",
        "runs",
        ["namespace", "status", "id"],
        postgresql_where=sa.text("status IN (1, 2, 4)"),
        sqlite_where=sa.text("status IN (1, 2, 4)"),
    )
    op.create_index(
        "runs_claimable",
        "runs",
        ["namespace", "queue", "lane", "task", "version", "pinned", "order_at", "id"],
        postgresql_where=sa.text("status = 2 AND session IS NULL"),
        sqlite_where=sa.text("status = 2 AND session IS NULL"),
    )
    op.create_index(
        "runs_due",
        "runs",
        ["due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
        sqlite_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "runs_occupying",
        "runs",
        ["namespace", "queue", "lane"],
        postgresql_where=sa.text("status IN (3, 5)"),
        sqlite_where=sa.text("status IN (3, 5)"),
    )
    op.create_index(
        "runs_open_children",
        "runs",
        ["namespace", "parent"],
        postgresql_where=sa.text("status < 10 AND parent IS NOT NULL"),
        sqlite_where=sa.text("status < 10 AND parent IS NOT NULL"),
    )
    op.create_index(
        "runs_session",
        "runs",
        ["session"],
        postgresql_where=sa.text("session IS NOT NULL"),
        sqlite_where=sa.text("session IS NOT NULL"),
    )
    op.create_table(
        "schedules",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("misfire", sa.SmallInteger(), nullable=False),
        sa.Column("overlap", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("external_id", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("options", sa.LargeBinary(), nullable=False),
        sa.Column("declared", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("withdrawn", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.Column("last_at", sa.BigInteger(), nullable=True),
        sa.Column("last_run", sa.LargeBinary(), nullable=True),
        sa.Column("waiting", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("skipped", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_skipped_at", sa.BigInteger(), nullable=True),
        sa.Column("last_skip_reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint("misfire IN (1, 2, 3) AND overlap IN (1, 2, 3, 4)", name="schedules_policies"),
        sa.CheckConstraint("next_at IS NULL OR (active AND NOT withdrawn)", name="schedules_idle_is_quiet"),
        sa.CheckConstraint("waiting = '' OR (active AND NOT withdrawn)", name="schedules_idle_waits_for_nothing"),
        sa.PrimaryKeyConstraint("namespace", "id", name="schedules_pkey"),
    )
    op.create_index(
        "schedules_declared",
        "schedules",
        ["namespace", "task"],
        unique=True,
        postgresql_where=sa.text("declared"),
        sqlite_where=sa.text("declared"),
    )
    op.create_index(
        "schedules_due",
        "schedules",
        ["next_at"],
        postgresql_where=sa.text("next_at IS NOT NULL"),
        sqlite_where=sa.text("next_at IS NOT NULL"),
    )
    op.create_index(
        "schedules_key",
        "schedules",
        ["namespace", "key"],
        unique=True,
        postgresql_where=sa.text("key IS NOT NULL"),
        sqlite_where=sa.text("key IS NOT NULL"),
    )
    op.create_index(
        "schedules_waiting",
        "schedules",
        ["namespace", "last_run"],
        postgresql_where=sa.text("waiting <> ''"),
        sqlite_where=sa.text("waiting <> ''"),
    )
    op.create_table(
        "sessions",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("connection_no", sa.BigInteger(), nullable=False),
        sa.Column("replica", sa.LargeBinary(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("tasks", sa.Text(), server_default=sa.text("'[]'"), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id", name="sessions_pkey"),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_index("sessions_lease", "sessions", ["lease_until"])
    op.create_table(
        "tasks",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.Column("definition", sa.LargeBinary(), nullable=False),
        sa.Column("queue", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id", "version", name="tasks_pkey"),
    )
    op.create_table(
        "tokens",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("tags", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("timeout_at", sa.BigInteger(), nullable=True),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.Column("error", sa.LargeBinary(), nullable=True),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("status IN (1, 2, 3, 4)", name="tokens_status"),
        sa.PrimaryKeyConstraint("namespace", "id", name="tokens_pkey"),
    )
    op.create_index(
        "tokens_due",
        "tokens",
        ["timeout_at"],
        postgresql_where=sa.text("status = 1 AND timeout_at IS NOT NULL"),
        sqlite_where=sa.text("status = 1 AND timeout_at IS NOT NULL"),
    )
    op.create_table(
        "versions",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.Column("left_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("namespace", "version", name="versions_pkey"),
    )
