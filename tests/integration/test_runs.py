"""Runs in lists, in bulk and in `ctx`, through the Python SDK, with real processes on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness import runs_tasks as tasks
from harness.processes import Deployment
from harness.waiting import eventually
from holdfast import Client, RunFailedError, bulk, idempotency_keys, queues, runs, sync, wait
from holdfast.errors import InvalidArgumentError, NotFoundError, WrongStatusError

TARGET = str(Path(tasks.__file__))
BIG = 1_200


@pytest.fixture
async def site(database_url: str, deploy: Callable[..., Deployment]) -> AsyncIterator[Deployment]:
    """A scheduler and a worker; the SDK talks to them."""
    made = deploy(database_url, {})
    made.start_scheduler()
    made.start_worker(TARGET, slots=50)
    made.wait_for_workers("double")
    async with Client(made.address) as client:
        with client.use():
            yield made


async def trigger_many(count: int, **options: Any) -> None:
    for at in range(0, count, 600):
        items = [tasks.double.item(n, **options) for n in range(at, min(count, at + 600))]
        batch = await tasks.double.batch_trigger(items)
        assert not batch.errors


async def counted(**conditions: Any) -> int:
    return len([run async for run in runs.iterate(limit=1_000, **conditions)])


async def test_bulk_cancels_and_replays_more_than_a_thousand(site: Deployment) -> None:
    await trigger_many(BIG, tags=["many"], delay="1h")
    left_alone = await tasks.double.trigger(1, tags=["other"], delay="1h")
    seen = [progress async for progress in bulk.cancel(tag="many", task="double")]
    assert len(seen) >= BIG // 100
    assert [one.acted for one in seen] == sorted(one.acted for one in seen)
    assert (seen[-1].acted, seen[-1].skipped, seen[-1].done) == (BIG, 0, True)
    assert await counted(tag="many", status="CANCELED") == BIG
    assert (await runs.retrieve(left_alone)).status == "DELAYED"
    again = await bulk.cancel(tag="many")
    assert (again.acted, again.skipped) == (0, BIG)

    # A replay starts at once, has the same tags, and is itself left alone by the operation that made it.
    done = await bulk.replay(tag="many")
    assert (done.acted, done.skipped) == (BIG, 0)
    assert await counted(tag="many") == 2 * BIG

    async def all_ended() -> bool:
        return await counted(tag="many", status="COMPLETED") == BIG

    await eventually(all_ended, "all replays have completed")
    with pytest.raises(InvalidArgumentError, match="at least one"):
        bulk.cancel()


async def test_a_bulk_operation_stops_where_its_caller_does(site: Deployment) -> None:
    await trigger_many(600, tags=["many"], delay="1h")
    operation = bulk.cancel(tag="many")
    first = await anext(operation)
    await operation.aclose()
    assert (first.acted, first.done) == (100, False)
    assert await counted(tag="many", status="DELAYED") >= 300
    done = await asyncio.to_thread(lambda: sync.bulk.cancel(tag="many").wait())
    assert done.acted + done.skipped == 600


async def test_every_condition_finds_its_runs(site: Deployment) -> None:
    before = datetime.now(UTC) - timedelta(seconds=60)
    token = await wait.create_token(timeout="10m")
    key = idempotency_keys.create(["org", 7], scope="global")
    waiting = await tasks.until_token.trigger(token.id, idempotency_key=key, tags=["w"])
    failed = await tasks.many_tags.trigger(11)
    with pytest.raises(RunFailedError):
        await failed.result()
    batch = await tasks.double.batch_trigger([1, 2])
    await batch.results()
    parent = await tasks.ctx_parent.trigger("x")
    _, child = await parent.result()

    async def waits() -> bool:
        return (await runs.retrieve(waiting)).status == "WAITING"

    await eventually(waits, "it waits")
    ended = (await runs.retrieve(failed)).ended_at
    assert ended is not None
    for conditions, expected in (
        ({"status": "WAITING"}, [waiting.id]),
        ({"status": "FAILED", "task": "many-tags"}, [failed.id]),
        ({"task": "see-ctx"}, [child["run"]]),
        ({"queue": "steered", "status": "WAITING"}, [waiting.id]),
        ({"queue": "steered"}, [child["run"], waiting.id]),
        ({"queue": "task/many-tags"}, [failed.id]),
        ({"tag": "w"}, [waiting.id]),
        ({"tag": "tag-9"}, [failed.id]),
        ({"batch": batch.id}, [run.id for run in reversed(batch.runs)]),
        ({"parent": parent}, [child["run"]]),
        ({"key": key, "task": "until-token"}, [waiting.id]),
        ({"key": "other", "task": "until-token"}, []),
        ({"metadata": {"stage": "waiting"}}, [waiting.id]),
        ({"metadata": {"stage": "waiting"}, "task": "double"}, []),
        ({"created_before": before}, []),
        ({"created_after": before, "task": "double"}, [run.id for run in reversed(batch.runs)]),
        ({"ended_before": ended + timedelta(microseconds=1), "status": "FAILED"}, [failed.id]),
        ({"version": child["version"], "task": "see-ctx"}, [child["run"]]),
        ({"version": "none"}, []),
    ):
        found = [run.id async for run in runs.iterate(**conditions)]  # type: ignore[arg-type]
        assert found == expected, conditions
    await wait.complete_token(token, "done")
    assert await waiting.result() == "done"


async def test_retrieve_shows_attempts_checkpoints_children_and_logs(site: Deployment) -> None:
    handle = await tasks.full_life.trigger("loud", tags=["life"])
    output = await handle.result()
    run = await runs.retrieve(handle, full=True)
    assert [(one.number, one.state) for one in run.attempts] == [(1, "FAILED"), (2, "SUCCEEDED")]
    first, second = run.attempts
    assert first.error is not None
    assert (first.error.type, first.error.message) == ("ValueError", "not yet")
    assert first.started_at is not None
    assert first.ended_at is not None
    assert second.started_at is not None
    assert first.started_at <= first.ended_at <= second.started_at
    assert first.worker
    assert second.worker
    assert [(one.kind, one.name, one.status) for one in run.checkpoints] == [
        ("STEP", "shout", "SUCCEEDED"),
        ("CHILD", "double", "SUCCEEDED"),
        ("WAIT", "for 0:00:00.050000", "SUCCEEDED"),
    ]
    assert run.checkpoints[0].value == "LOUD"
    assert run.child_run_ids == (run.checkpoints[1].subject_id,)
    assert (run.payload, run.output) == ("loud", output)
    logged = await runs.logs(handle)
    assert [(line.level, line.message, line.attempt) for line in logged] == [("info", "in attempt 2", 2)]
    explained = await runs.explain(handle)
    assert str(explained).startswith("It ended COMPLETED at ")
    assert explained.backing_off >= timedelta(milliseconds=50)
    assert explained.waiting >= timedelta(milliseconds=50)
    assert run.created_at is not None
    assert run.ended_at is not None
    parts = explained.queued + explained.executing + explained.waiting + explained.delayed + explained.backing_off
    assert parts == run.ended_at - run.created_at


async def test_replay_takes_the_payload_or_another(site: Deployment) -> None:
    handle = await tasks.see_ctx.trigger("x", tags=["t"])
    first = await handle.result()
    replayed = await (await runs.replay(handle)).result()
    assert (first["is_replay"], replayed["is_replay"]) == (False, True)
    assert (replayed["tags"], replayed["task"]) == (["t"], "see-ctx")
    assert replayed["run"] != first["run"]
    number = await tasks.double.trigger(2)
    assert await number.result() == 4
    assert await (await runs.replay(number, 50)).result() == 100
    assert (await runs.retrieve(number)).output == 4
    with pytest.raises(NotFoundError):
        await runs.replay("run_" + "0" * 26)


async def test_reschedule_and_cancel(site: Deployment) -> None:
    handle = await tasks.double.trigger(4, delay="1h")
    moved = await runs.reschedule(handle, datetime.now(UTC) + timedelta(hours=2))
    assert moved.due_at is not None
    assert moved.due_at > datetime.now(UTC) + timedelta(minutes=90)
    assert str(await runs.explain(handle)).startswith("It is delayed until ")
    await asyncio.to_thread(sync.runs.reschedule, handle.id, "10ms")
    assert await handle.result() == 8
    with pytest.raises(WrongStatusError):
        await runs.reschedule(handle, "1h")
    token = await wait.create_token(timeout=None)
    waiting = await tasks.until_token.trigger(token.id)

    async def sentence() -> bool:
        return f"the token {token.id}" in str(await runs.explain(waiting))

    await eventually(sentence, "it waits for the token")
    assert str(await runs.explain(waiting)).startswith("It waits since ")
    assert (await runs.cancel(waiting)).status == "CANCELED"
    assert (await runs.cancel(waiting)).status == "CANCELED"


async def test_ctx_is_complete_in_a_child_of_a_batch(site: Deployment) -> None:
    handle = await tasks.ctx_parent.trigger("x", tags=["a", "b"], max_attempts=4)
    above, below = await handle.result()
    run = await runs.retrieve(below["run"])
    assert run.batch_id
    version = above.pop("version")
    assert version == below.pop("version") == run.version
    common = {"is_replay": False, "attempt": 1, "recoveries": 0}
    assert above == common | {
        "task": "ctx-parent", "run": handle.id, "parent": None, "root": handle.id, "depth": 0, "tags": ["a", "b"],
        "max_attempts": 4, "queue": "task/ctx-parent", "key": None, "batch": None,
    }  # fmt: skip
    assert below == common | {
        "task": "see-ctx", "run": run.id, "parent": handle.id, "root": handle.id, "depth": 1, "tags": [],
        "max_attempts": 3, "queue": "steered", "key": "key", "batch": run.batch_id,
    }  # fmt: skip


async def test_an_eleventh_tag_is_an_error(site: Deployment) -> None:
    enough = await tasks.many_tags.trigger(10)
    assert await enough.result() == "all"
    assert len((await runs.retrieve(enough)).tags) == 10
    too_many = await tasks.many_tags.trigger(2, tags=[f"own-{n}" for n in range(9)])
    with pytest.raises(RunFailedError, match="11 tags are more than the limit of 10"):
        await too_many.result()
    assert (await runs.retrieve(too_many)).tags == (*[f"own-{n}" for n in range(9)], "tag-0")


async def test_queues_are_looked_at_and_steered(site: Deployment) -> None:
    assert [one.name for one in await queues.list() if one.name == "steered"] == ["steered"]
    declared = await queues.retrieve("steered")
    assert (declared.concurrency_limit, declared.total_concurrency_limit, declared.overridden) == (2, None, False)
    assert (await queues.pause("steered")).paused
    token = await wait.create_token(timeout=None)
    held = await tasks.until_token.trigger(token.id)
    assert "'steered', which is paused since 20" in str(await runs.explain(held))
    assert (await queues.retrieve("steered")).queued == 1
    assert not (await queues.resume("steered")).paused

    async def waits() -> bool:
        return (await runs.retrieve(held)).status == "WAITING"

    await eventually(waits, "it goes on")
    limits = {"concurrency_limit": 7, "rate_limit": 5, "rate_period": "2s", "depth_limit": 9}
    changed = await queues.override("steered", **limits)  # type: ignore[arg-type]
    assert (changed.concurrency_limit, changed.rate_limit, changed.depth_limit, changed.overridden) == (7, 5, 9, True)
    assert changed.rate_period == timedelta(seconds=2)
    reset = await asyncio.to_thread(sync.queues.reset_override, "steered")
    assert (reset.concurrency_limit, reset.overridden) == (2, False)
    with pytest.raises(NotFoundError, match="did you mean 'steered'"):
        await queues.pause("stered")
    with pytest.raises(InvalidArgumentError, match="belong together"):
        await queues.override("steered", rate_limit=5)
