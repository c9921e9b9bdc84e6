"""What Alembic runs: the versions, on the connection and in the transaction that `migrate` opened."""

from __future__ import annotations

from alembic import context

from holdfast_scheduler.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
