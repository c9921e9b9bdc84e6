"""A server with a fake engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from harness.edge import (
    Edge,
    serving,
)


@pytest.fixture
async def edge(database_url: str) -> AsyncIterator[Edge]:
    async with serving(database_url) as made:
        yield made


@pytest.fixture
async def lite(sqlite_url: str) -> AsyncIterator[Edge]:
    """For what does not touch the database's dialect."""
    async with serving(sqlite_url) as made:
        yield made
