"""Ends that other schedulers tell of: read together, one read at a time, and no namespace waits for another."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
import sqlalchemy as sa

from holdfast_scheduler.engine import Engine
from holdfast_scheduler.errors import StorageUnavailableError
from holdfast_scheduler.model import RunEnd
from holdfast_scheduler.watching import Watchers

A, B, C, D = (letter * 16 for letter in (b"a", b"b", b"c", b"d"))


class Sink:
    """What it was told."""

    def __init__(self) -> None:
        self.ends: list[bytes] = []

    def ended(self, end: RunEnd) -> None:
        self.ends.append(end.run_id)

    def noticed(self, run_id: bytes, size: int) -> None:
        raise AssertionError("all are short")

    def changed(self, run_id: bytes) -> None: ...

    def stopped(self) -> None: ...


class Reads:
    """An engine without a database, and what it asks of one."""

    def __init__(self) -> None:
        self.engine = cast("Any", object.__new__(Engine))
        self.engine.watchers = Watchers()
        self.engine._heard = {}
        self.engine._looking = set()
        self.engine.read = self.read
        self.asked: list[tuple[str, list[bytes]]] = []
        self.may_answer = asyncio.Event()
        self.fails = False

    async def read(self, _what: Any, namespace: str, run_ids: list[bytes], _short: int) -> list[Any]:
        self.asked.append((namespace, run_ids))
        if namespace == "busy":
            await self.may_answer.wait()
        if self.fails:
            raise StorageUnavailableError("gone")
        return [(run_id, 0, RunEnd(run_id, 10, None, None)) for run_id in run_ids]

    def watch(self, namespace: str, *run_ids: bytes) -> Sink:
        sink = Sink()
        for run_id in run_ids:
            self.engine.watchers.add(namespace, run_id, sink)
        return sink


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_heard_during_a_read_is_read_together_and_a_calm_namespace_does_not_wait() -> None:
    reads = Reads()
    busy, calm = reads.watch("busy", A, C, D), reads.watch("calm", B)
    reads.engine._ended_elsewhere("busy", [A])
    await _turns()
    reads.engine._ended_elsewhere("busy", [C])
    reads.engine._ended_elsewhere("calm", [B])
    reads.engine._ended_elsewhere("busy", [D])
    await _turns()
    assert (busy.ends, calm.ends) == ([], [B])
    reads.may_answer.set()
    await _turns()
    assert busy.ends == [A, C, D]
    assert reads.asked == [("busy", [A]), ("calm", [B]), ("busy", [C, D])]
    assert reads.engine._heard == {}


async def test_a_read_that_fails_holds_up_no_later_one() -> None:
    reads = Reads()
    sink = reads.watch("calm", A, B)
    reads.fails = True
    reads.engine._ended_elsewhere("calm", [A])
    await _turns()
    reads.fails = False
    reads.engine._ended_elsewhere("calm", [B])
    await _turns()
    assert sink.ends == [B]
    assert reads.engine.watchers.watched() == {"calm": [A]}  # for the look
    assert reads.engine._heard == {}


@pytest.mark.parametrize(
    ("error", "is_defect"),
    [
        (StorageUnavailableError("gone"), False),
        (sa.exc.OperationalError("SELECT", {}, Exception("gone")), False),
        (sa.exc.TimeoutError("no connection became free"), False),
        (sa.exc.ProgrammingError("SELECT", {}, Exception("no such column")), True),
        (ZeroDivisionError(), True),
    ],
)
async def test_a_look_that_fails_by_a_defect_says_so(
    error: Exception, is_defect: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def look() -> None:
        raise error

    engine = Reads().engine
    engine._later(look())
    await asyncio.wait(engine._looking)
    assert [one.levelno for one in caplog.records if one.levelno >= logging.WARNING] == [logging.ERROR] * is_defect
