from __future__ import annotations

import asyncio

import pytest

from holdfast import ids
from holdfast.context import AbortSignal, Context
from holdfast.errors import RunCanceledError
from holdfast.v1.run_pb2 import IdempotencyKey, KeyPart
from holdfast.v1.worker_service_pb2 import Start


def test_a_context_says_what_a_start_says():
    run, parent = bytes(range(16)), bytes(range(1, 17))
    ctx = Context.of_start(
        Start(run_id=run, parent_run_id=parent, task_id="t", attempt=2, recoveries=1, queue="q", batch_id="batch_1",
              created_at_us=1_000_000, tags=["a"], is_reentry=True, depth=1, version="v1", is_replay=True,
              idempotency_key=IdempotencyKey(parts=[KeyPart(text="acme"), KeyPart(number=7)])),
    )  # fmt: skip
    assert ctx.run.id == ids.to_text(ids.RUN, run)
    assert ctx.run.parent_id == ids.to_text(ids.RUN, parent)
    assert ctx.run.root_id == ctx.run.id
    assert (ctx.task.id, ctx.attempt.number, ctx.attempt.recoveries) == ("t", 2, 1)
    assert (ctx.queue.name, ctx.queue.concurrency_key) == ("q", None)
    assert ctx.batch is not None
    assert ctx.batch.id == "batch_1"
    assert ctx.is_reentry
    assert ctx.version == "v1"
    assert ctx.run.is_replay
    assert ctx.run.idempotency_key == ("acme", 7)
    assert ctx.run.created_at.timestamp() == 1


async def test_a_signal_fires_once_for_everybody():
    signal = AbortSignal()
    calls = []
    signal.add_callback(lambda: calls.append("first"))
    remove = signal.add_callback(lambda: calls.append("removed"))
    remove()
    signal.raise_if_aborted()

    async def wait() -> None:
        await signal

    waiter = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert not waiter.done()
    await asyncio.to_thread(signal.fire, "enough")
    signal.fire("again")
    await waiter
    await signal
    assert signal.aborted
    assert signal.reason == "enough"
    assert calls == ["first"]
    signal.add_callback(lambda: calls.append("late"))
    assert calls == ["first", "late"]
    assert signal.wait(0)
    with pytest.raises(RunCanceledError, match="enough"):
        signal.raise_if_aborted()
