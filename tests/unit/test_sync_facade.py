from __future__ import annotations

import asyncio

import pytest

from harness.fake_scope import FakeScope, in_thread, running
from holdfast import Context, metadata, registry, sync, tags
from holdfast.errors import InRunError, StepFailedError
from holdfast.v1 import run_pb2
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import Checkpoint


@sync.task(id="send-mail")
def send_mail(payload: str, ctx: Context) -> int:
    return len(payload)


@sync.task(id="test-sync-tick")
def tick() -> None: ...


def test_a_sync_task_is_registered_and_stays_a_function():
    assert registry.get("send-mail") is send_mail.task
    assert not send_mail.task.is_async
    assert tick() is None
    assert tick.id == "test-sync-tick"


async def test_a_def_body_blocks_on_durable_calls():
    scope = FakeScope()
    scope.answers["send-mail"] = Checkpoint(status=run_pb2.CHECKPOINT_STATUS_SUCCEEDED, value=Payload(data=b"4"))

    def body() -> int:
        sync.wait.for_(seconds=2)
        handle = tick.trigger(tags="a")
        assert handle.id.startswith("run_")
        metadata.set("page", 1)
        tags.add("t")
        with sync.shielded():
            assert scope.shields == 1
        assert sync.step("add", lambda a, b: a + b, 1, 2) == 3
        with pytest.raises(StepFailedError):
            sync.step("fail", lambda: 1 / 0)
        token = sync.wait.create_token(timeout=None)
        assert sync.wait.for_token(token).ok
        assert sync.tasks.trigger("x", 1).task_id == "x"
        assert len(tick.batch_trigger([tick.item(), None]).runs) == 2
        return send_mail.trigger_and_wait("abcd").unwrap()

    async with asyncio.timeout(30):
        assert await in_thread(scope, body) == 4
    assert [call.record.name for call in scope.calls][:4] == ["for 0:00:02", "test-sync-tick", "add", "fail"]
    assert scope.operations[0].key == "page"
    assert scope.tags == ["t"]


async def test_a_step_of_a_def_body_cannot_call_durably():
    scope = FakeScope()

    def inner() -> None:
        sync.wait.for_(seconds=1)

    def body() -> None:
        with pytest.raises(StepFailedError, match="inside the step 'outer'"):
            sync.step("outer", inner)

    async with asyncio.timeout(30):
        await in_thread(scope, body)
    assert len(scope.calls) == 1


async def test_an_async_body_must_not_block():
    with running(FakeScope()), pytest.raises(InRunError, match="await it"):
        sync.wait.for_(seconds=1)
