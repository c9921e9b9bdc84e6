"""`retry.on_throw` and `retry.fetch`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from harness.executor_end import Scheduler, output
from holdfast import Retry, retry, step
from holdfast._task import Task
from holdfast.errors import AbortTaskRunError, InvalidRetryError
from holdfast_worker.gate import GatedEventLoop

QUICK = Retry(max_attempts=3, min_timeout=0, max_timeout=0)
SLOW = Retry(max_attempts=4, min_timeout=60, max_timeout=60, randomize=False)


@dataclass
class Response:
    status_code: int
    headers: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def loop() -> Iterator[GatedEventLoop]:
    loop = GatedEventLoop()
    yield loop
    loop.close()


async def test_it_tries_until_the_last_attempt() -> None:
    tries: list[int] = []

    async def flaky(attempt: int) -> str:
        tries.append(attempt)
        if attempt < 3:
            raise ConnectionError(attempt)
        return "done"

    assert await retry.on_throw(flaky, QUICK) == "done"
    assert tries == [1, 2, 3]
    with pytest.raises(ConnectionError):
        await retry.on_throw(flaky, Retry(max_attempts=2, min_timeout=0, max_timeout=0))


async def test_a_def_function_runs_in_a_thread_and_hopeless_errors_are_not_tried_again() -> None:
    tries: list[int] = []

    def hopeless() -> None:
        tries.append(1)
        raise AbortTaskRunError("no")

    with pytest.raises(AbortTaskRunError):
        await retry.on_throw(hopeless, QUICK)
    assert tries == [1]


async def test_statuses_are_tried_again_and_the_last_response_is_returned() -> None:
    answers = [Response(503), Response(429, {"Retry-After": "0"}), Response(200)]
    assert (await retry.fetch(lambda: answers.pop(0), {"429,500-599": QUICK})).status_code == 200
    answers = [Response(500)] * 3
    assert (await retry.fetch(lambda: answers.pop(0), {"500-599": QUICK})).status_code == 500
    assert not answers
    answers = [Response(404), Response(200)]
    assert (await retry.fetch(lambda: answers.pop(0))).status_code == 404
    with pytest.raises(InvalidRetryError, match="5xx"):
        retry.fetch(lambda: None, {"5xx": QUICK}).close()


def test_retry_after_is_waited_for_up_to_an_hour() -> None:
    tries = retry._Fetching(lambda: None, retry._ranges({"429": QUICK}), QUICK)
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    for header, least, most in (("30", 30, 30), (soon, 90, 100), ("nonsense", 0, 0), ("-5", 0, 0)):
        pause = tries.pause_after(Response(429, {"retry-after": header}), None, 1)
        assert pause is not None
        assert least <= pause <= most
    assert tries.pause_after(Response(429, {"Retry-After": "7200"}), None, 1) is None
    assert tries.pause_after(Response(429), None, 3) is None


@pytest.mark.parametrize("kill_after", range(1, 9))
def test_long_pauses_are_durable_and_tries_before_them_are_not_repeated(loop: GatedEventLoop, kill_after: int) -> None:
    tries: list[int] = []
    effects: list[str] = []

    async def flaky(attempt: int) -> str:
        tries.append(attempt)
        effects.append(await step("inside", name_of, attempt))
        if attempt < 3:
            raise ConnectionError("down")
        return "up"

    async def name_of(attempt: int) -> str:
        return f"try {attempt}"

    async def body() -> list[Any]:
        first = await retry.on_throw(flaky, SLOW)
        return [first, await retry.on_throw(flaky, SLOW), await step("after", name_of, 0)]

    scheduler = Scheduler(loop, Task(body, id="task"))
    scheduler.kill_after = kill_after
    scheduler.start()
    assert output(loop.run_until_complete(scheduler.to_end())) == ["up", "up", "try 0"]
    assert scheduler.parks >= 4
    # The try that was going on at the kill, and one that ended with success, which is not recorded, may be repeated.
    assert len(tries) <= 6 + 2
    assert tries.count(1) <= 3
