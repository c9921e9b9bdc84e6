"""In which attempt a checkpoint failed, where that is not the one that made it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.add_column("checkpoints", sa.Column("failed_in", sa.Integer(), nullable=True))
