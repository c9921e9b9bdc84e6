"""Schema changes, applied when a scheduler starts. `versions/` holds one file per change."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from holdfast_scheduler.errors import DatabaseUrlError, StartError

_LOCK = 0x686F6C6466617374  # "holdfast": schedulers that start together migrate one after the other


def migrate(url: str) -> None:
    """Bring the database that `url` names to the newest schema, in one transaction.

    Raises: DatabaseUrlError when it is malformed; StartError when it cannot be reached or is newer than this program.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseUrlError(f"{url!r} is not a database URL") from None
    is_sqlite = parsed.get_backend_name() == "sqlite"
    # "postgresql" alone means psycopg2 to SQLAlchemy 2.0 and psycopg to 2.1.
    parsed = parsed.set(drivername="sqlite" if is_sqlite else "postgresql+psycopg")
    engine = sa.create_engine(parsed, poolclass=sa.NullPool)
    if is_sqlite:
        # The sqlite3 module would begin no transaction before DDL: a crash in between would leave half a schema.
        sa.event.listen(engine, "connect", lambda connection, _record: setattr(connection, "isolation_level", None))
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        with engine.begin() as connection:
            if not is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise StartError(f"the database {parsed!r} was made by a newer version of Holdfast ({error})") from None
    except DBAPIError as error:
        raise StartError(f"cannot use the database {parsed!r}: {' '.join(str(error.orig).split())}") from error
    finally:
        engine.dispose()
