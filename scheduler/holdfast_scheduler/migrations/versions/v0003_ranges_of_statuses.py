"""Conditions on a status as ranges instead of lists, for which SQLite builds a table for each row it writes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OPEN = sa.text("+status < 5 AND status <> 3")
_CHANGED = {
    "runs": "status BETWEEN 1 AND 5 OR status BETWEEN 10 AND 15",
    "checkpoints": "status BETWEEN 1 AND 4",
    "tokens": "status BETWEEN 1 AND 4",
}


def upgrade() -> None:
    """Apply the change. SQLite cannot alter a constraint: there Alembic copies the table."""
    op.drop_index("runs_open", "runs")
    for table, condition in _CHANGED.items():
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(f"{table}_status", type_="check")
            batch.create_check_constraint(f"{table}_status", sa.text(condition))
    op.create_index("runs_open", "runs", ["namespace", "status", "id"], postgresql_where=_OPEN, sqlite_where=_OPEN)
