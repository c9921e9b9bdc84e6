"""The PostgreSQL that the tests start: copies of a template, and what it acknowledged survives a kill."""

from __future__ import annotations

import psycopg

from harness.postgres import PostgresServer


def test_durability_settings_are_those_of_production(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            row = connection.execute(f"SHOW {setting}".encode()).fetchone()
            assert row == ("on",), setting


def test_a_database_copied_from_a_template_has_its_tables(postgres_server: PostgresServer) -> None:
    template = postgres_server.create_database("template_for_this_test")
    with psycopg.connect(template) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    copy = postgres_server.create_database(template="template_for_this_test")
    with psycopg.connect(copy) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    postgres_server.drop_database(copy)
    postgres_server.drop_database(template)


def test_an_acknowledged_commit_survives_a_kill_and_a_pause_keeps_connections(
    own_postgres_server: PostgresServer,
) -> None:
    url = own_postgres_server.url()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (id int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    own_postgres_server.kill()
    own_postgres_server.start()
    with psycopg.connect(url) as connection:
        own_postgres_server.pause()
        own_postgres_server.unpause()
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1,)
