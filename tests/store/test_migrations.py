"""The migrations build exactly what schema.py declares, on both databases."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from holdfast_scheduler.errors import DatabaseUrlError, StartError
from holdfast_scheduler.migrations import migrate
from holdfast_scheduler.schema import metadata

_UPGRADE = command.upgrade


def _engine(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)


_NEEDLESS = re.compile(r'"(\w+)"|(?<=DEFAULT )\(([^()]*)\)')


def _sqlite_shape(engine: sa.Engine) -> dict[str, list[str]]:
    """Every object's SQL, as sorted clauses: the order of constraints within a table means nothing, nor do the quotes
    and parentheses in which a table's name and defaults are written when a migration has made it anew."""
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")).all()
    plain = {name: _NEEDLESS.sub(r"\1\2", re.sub(r"\s+", " ", sql)) for name, sql in rows if name != "alembic_version"}
    return {name: sorted(_parts(sql)) for name, sql in plain.items()}


def _parts(sql: str) -> list[str]:
    """Of a table, what commas separate, but for those in inner parentheses: columns that a migration has added come
    last. Anything else is one part: the order of an index's columns does mean something."""
    if not sql.startswith("CREATE TABLE"):
        return [sql]
    head, _, body = sql.partition("(")
    parts, depth = [""], 0
    for letter in body[: body.rindex(")")]:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [head.strip(), body[body.rindex(")") :], *(part.strip() for part in parts)]


_POSTGRES_SHAPE = """
SELECT 'column', table_name || '.' || column_name,
       concat_ws(' ', data_type, is_nullable, column_default)
  FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'options', relname::text, coalesce(reloptions::text, '')
  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""


def _postgres_shape(engine: sa.Engine) -> dict[tuple[str, str], str]:
    with engine.connect() as connection:
        rows = connection.execute(sa.text(_POSTGRES_SHAPE)).all()
    return {(kind, name): text for kind, name, text in rows if not name.startswith("alembic_version")}


@pytest.fixture
def second_postgres_url(postgres_server) -> Iterator[str]:  # type: ignore[no-untyped-def]
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


def test_migrated_sqlite_equals_the_schema(sqlite_url: str, tmp_path: Path) -> None:
    migrate(sqlite_url)
    declared = _engine(f"sqlite:///{tmp_path / 'declared.sqlite3'}")
    metadata.create_all(declared)
    assert _sqlite_shape(_engine(sqlite_url)) == _sqlite_shape(declared)


def test_migrated_postgres_equals_the_schema(postgres_url: str, second_postgres_url: str) -> None:
    migrate(postgres_url)
    declared = _engine(second_postgres_url)
    metadata.create_all(declared)
    assert _postgres_shape(_engine(postgres_url)) == _postgres_shape(declared)


def test_a_second_time_changes_nothing(database_url: str) -> None:
    migrate(database_url)
    migrate(database_url)
    with _engine(database_url).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM alembic_version")) == 1


_OPEN_RUN = "INSERT INTO runs (namespace, id, task, queue, order_at, status) VALUES ('default', '01', 't', 'q', 1, 2)"


def test_rows_survive_the_change_of_conditions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _revision: _UPGRADE(config, "0002"))
        migrate(database_url)
    with _engine(database_url).begin() as connection:
        connection.execute(sa.text(_OPEN_RUN))
    migrate(database_url)
    with _engine(database_url).connect() as connection:
        rows = connection.execute(sa.text("SELECT namespace, task, order_at, status, version, pinned FROM runs")).all()
        assert [tuple(row) for row in rows] == [("default", "t", 1, 2, "", False)]
        for status in (0, 6, 9, 16):
            with pytest.raises(sa.exc.IntegrityError, match="runs_status"):
                connection.execute(sa.text(f"UPDATE runs SET status = {status}"))
            connection.rollback()
        with pytest.raises(sa.exc.IntegrityError, match="runs_delayed_has_due"):
            connection.execute(sa.text("UPDATE runs SET status = 1"))


def test_a_newer_database_is_refused_in_one_line(sqlite_url: str) -> None:
    migrate(sqlite_url)
    with _engine(sqlite_url).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StartError, match="newer version of Holdfast") as caught:
        migrate(sqlite_url)
    assert "\n" not in str(caught.value)


def test_a_failed_migration_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "half.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tokens (x)")  # stands in the way of the last statements
    with pytest.raises(StartError, match="tokens"):
        migrate(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("tokens",)]


def test_an_unreachable_database_is_one_line() -> None:
    with pytest.raises(StartError, match="cannot use the database") as caught:
        migrate("postgresql://nobody:secret@127.0.0.1:1/x")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_malformed_url() -> None:
    with pytest.raises(DatabaseUrlError, match="not a database URL"):
        migrate("holdfast.db")
