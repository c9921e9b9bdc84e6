from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from harness.fake_scope import FakeScope, running
from holdfast import (
    Debounce,
    RunStatus,
    SubtaskRunError,
    batch,
    idempotency_keys,
    metadata,
    shielded,
    tags,
    task,
    tasks,
    wait,
)
from holdfast.errors import (
    InRunError,
    InvalidArgumentError,
    InvalidDurationError,
    InvalidKeyError,
    InvalidPayloadError,
    NotInRunError,
    PayloadError,
    TaskNotFoundError,
    TokenFailedError,
    TooLargeError,
    TriggerError,
)
from holdfast.handles import RunHandle
from holdfast.v1 import payload_pb2, run_pb2
from holdfast.v1.payload_pb2 import Payload, TaskError
from holdfast.v1.run_pb2 import BatchEntry, Checkpoint

SUCCEEDED = run_pb2.CHECKPOINT_STATUS_SUCCEEDED
FAILED = run_pb2.CHECKPOINT_STATUS_FAILED
CHILD_ID = "run_" + "1" * 26


class Page(BaseModel):
    number: int


@task(id="write-one-page")
async def write_page(payload: Page) -> int:
    return payload.number


@task(id="tick-once")
async def tick() -> None: ...


@pytest.fixture
def scope():
    with running(FakeScope()) as bound:
        yield bound


def failure(kind: int, type_name: str = "ValueError") -> TaskError:
    return TaskError(kind=kind, type=type_name, message="m")


async def test_a_trigger_in_a_run_is_a_durable_call(scope):
    handle = await write_page.trigger(Page(number=3), tags=["a", "b"], delay="5m")
    (call,) = scope.calls
    item = call.record.child.item
    assert call.kind == run_pb2.CHECKPOINT_KIND_TRIGGER
    assert (call.record.name, call.record.child.wait, call.key) == ("write-one-page", False, None)
    assert (item.task_id, item.payload.data, list(item.options.tags)) == ("write-one-page", b'{"number":3}', ["a", "b"])
    assert item.options.delay.seconds == 300
    assert handle.id == item.run_id
    assert call.record.fingerprint == item.fingerprint


async def test_a_keyed_call_has_a_key_and_no_fingerprint(scope):
    key = idempotency_keys.create(["page", 3])
    await write_page.trigger(Page(number=3), idempotency_key=key, idempotency_key_ttl="3d")
    await write_page.trigger(Page(number=4), idempotency_key=key)
    one, two = scope.calls
    assert one.key == two.key is not None
    assert not one.record.fingerprint
    assert one.record.child.item.idempotency_key.ttl.seconds == 3 * 86400


@pytest.mark.filterwarnings("ignore:coroutine 'FakeScope")
async def test_identity_is_taken_when_called(scope):
    both = [write_page.trigger_and_wait(Page(number=n)) for n in (1, 2)]
    assert [call.record.child.item.payload.data for call in scope.calls] == [b'{"number":1}', b'{"number":2}']
    assert all(asyncio.iscoroutine(each) for each in both)
    scope.answers.clear()
    for each in both:
        each.close()


async def test_trigger_and_wait_gives_a_result(scope):
    scope.answers["write-one-page"] = Checkpoint(status=SUCCEEDED, subject_id=CHILD_ID, value=Payload(data=b"3"))
    result = await write_page.trigger_and_wait(Page(number=3), wait_timeout="1m")
    assert (result.ok, result.output, result.error, result.run_id) == (True, 3, None, CHILD_ID)
    assert result.unwrap() == 3
    assert scope.calls[0].kind == run_pb2.CHECKPOINT_KIND_CHILD
    assert scope.calls[0].record.timeout.seconds == 60


async def test_a_failed_child_does_not_raise_until_unwrapped(scope):
    scope.answers["write-one-page"] = Checkpoint(
        status=FAILED,
        subject_id=CHILD_ID,
        child_status=run_pb2.RUN_STATUS_CRASHED,
        error=failure(payload_pb2.TASK_ERROR_KIND_CRASHED),
    )
    result = await write_page.trigger_and_wait(Page(number=3))
    assert (result.ok, result.output, result.status) == (False, None, RunStatus.CRASHED)
    with pytest.raises(SubtaskRunError) as caught:
        result.unwrap()
    assert (caught.value.status, caught.value.run_id, caught.value.error.kind) == ("CRASHED", CHILD_ID, "CRASHED")


async def test_a_wait_that_met_its_limit_is_timed_out(scope):
    scope.answers["write-one-page"] = Checkpoint(status=FAILED, error=failure(payload_pb2.TASK_ERROR_KIND_TIMED_OUT))
    assert (await write_page.trigger_and_wait(Page(number=3), wait_timeout=1)).status is RunStatus.TIMED_OUT


async def test_results_of_a_batch_that_are_too_large_raise(scope):
    error = failure(payload_pb2.TASK_ERROR_KIND_LIMIT_EXCEEDED, "TOO_LARGE")
    scope.answers["write-one-page"] = Checkpoint(status=FAILED, error=error)
    with pytest.raises(TooLargeError):
        await write_page.batch_trigger_and_wait([Page(number=3)])


@pytest.mark.parametrize(("reason", "kind"), [("TASK_NOT_FOUND", TaskNotFoundError), ("SOMETHING", TriggerError)])
async def test_what_could_not_be_triggered_raises(scope, reason, kind):
    answer = Checkpoint(status=FAILED, error=failure(payload_pb2.TASK_ERROR_KIND_NOT_TRIGGERED, reason))
    scope.answers["write-one-page"] = answer
    for call in (write_page.trigger, write_page.trigger_and_wait):
        with pytest.raises(kind):
            await call(Page(number=1))


async def test_a_cached_handle_with_another_payload_warns(scope, caplog):
    scope.answers["write-one-page"] = Checkpoint(
        status=SUCCEEDED, subject_id=CHILD_ID, is_cached=True, payload_differs=True
    )
    with caplog.at_level(logging.WARNING, "holdfast"):
        handle = await write_page.trigger(Page(number=3), idempotency_key="k")
    assert (handle.id, handle.is_cached, handle.payload_differs) == (CHILD_ID, True, True)
    assert CHILD_ID in caplog.text


async def test_tasks_without_payload(scope):
    await tick.trigger()
    await tick.trigger(tags="a")
    assert scope.calls[0].record.child.item.payload.data == b"null"
    with pytest.raises(InvalidPayloadError, match="takes no payload"):
        tick.trigger(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidPayloadError, match="needs a payload"):
        write_page.trigger()  # type: ignore[call-overload]


async def test_payloads_are_checked_where_triggered(scope):
    with pytest.raises(InvalidPayloadError, match="payload of task 'write-one-page'"):
        write_page.trigger("three")  # type: ignore[arg-type]
    with pytest.raises(TooLargeError, match="payload limit"):
        tasks.trigger("x", "x" * 5_000_000)
    assert not scope.calls


async def test_every_option_travels(scope):
    await write_page.trigger(
        Page(number=1),
        delay=datetime(2030, 1, 1, tzinfo=UTC),
        ttl="1h",
        priority=-2.5,
        queue="q",
        concurrency_key="acme",
        tags="one",
        metadata={"a": 1},
        max_attempts=7,
        max_duration=5,
        timeout="2m",
        version="v2",
        on_parent_end="cancel",
        debounce=Debounce("d", "10s", mode="leading", max_delay="1m"),
    )
    options = scope.calls[0].record.child.item.options
    set_fields = {field.name for field, _ in options.ListFields()}
    assert set_fields == {field.name for field in options.DESCRIPTOR.fields} - {"delay"}
    assert options.delay_until.ToDatetime(tzinfo=UTC) == datetime(2030, 1, 1, tzinfo=UTC)
    assert options.metadata == b'{"a":1}'


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"delay": "soon"}, InvalidDurationError),
        ({"delay": datetime(2030, 1, 1)}, InvalidArgumentError),  # noqa: DTZ001
        ({"ttl": -1}, InvalidDurationError),
        ({"priority": float("nan")}, InvalidArgumentError),
        ({"queue": ""}, InvalidArgumentError),
        ({"tags": ["a\0b"]}, InvalidArgumentError),
        ({"tags": ["\ud800"]}, InvalidArgumentError),
        ({"tags": ["x" * 129]}, InvalidArgumentError),
        ({"tags": [str(n) for n in range(11)]}, InvalidArgumentError),
        ({"tags": 3}, InvalidArgumentError),
        ({"metadata": [1]}, PayloadError),
        ({"metadata": {"a": float("nan")}}, PayloadError),
        ({"metadata": {"a": "x" * 300_000}}, TooLargeError),
        ({"max_attempts": 0}, InvalidArgumentError),
        ({"on_parent_end": "kill"}, InvalidArgumentError),
        ({"debounce": {"key": "a"}}, InvalidArgumentError),
        ({"idempotency_key": 3}, InvalidKeyError),
        ({"idempotency_key_ttl": "3d"}, InvalidKeyError),
        ({"idempotency_key": "a", "idempotency_key_ttl": "x"}, InvalidDurationError),
        ({"tagz": "a"}, TypeError),
    ],
)
async def test_bad_options_are_refused_before_anything_is_asked(scope, options, error):
    with pytest.raises(error):
        write_page.trigger(Page(number=1), **options)
    assert not scope.calls


async def test_waiting_is_refused_outside_a_run():
    for call in (
        lambda: write_page.trigger_and_wait(Page(number=1)),
        lambda: write_page.batch_trigger_and_wait([Page(number=1)]),
        lambda: batch.trigger_and_wait([tick.item()]),
    ):
        with pytest.raises(NotInRunError, match=r"handle\.result"):
            call()
    with pytest.raises(NotInRunError):
        wait.for_(seconds=1)
    with pytest.raises(InvalidKeyError, match='scope="global"'):
        tick.trigger(idempotency_key=idempotency_keys.create("a", scope="run"))


async def test_a_handle_in_a_run_is_not_waited_for(scope):
    handle = await tick.trigger()
    with pytest.raises(InRunError, match="trigger_and_wait"):
        await handle.result()


async def test_batches_in_a_run(scope):
    handle: Any = await batch.trigger([write_page.item(Page(number=1), tags="x"), tick.item(), tasks.item("else", [1])])
    (call,) = scope.calls
    assert call.kind == run_pb2.CHECKPOINT_KIND_BATCH_TRIGGER
    assert call.record.name == "batch"
    assert [item.task_id for item in call.record.batch.items] == ["write-one-page", "tick-once", "else"]
    assert [each.id for each in handle.runs] == [item.run_id for item in call.record.batch.items]
    assert handle.id == call.record.batch.batch_id
    assert call.record.fingerprint


async def test_results_of_a_batch_come_in_input_order_with_failures_in_place(scope):
    scope.answers["write-one-page"] = Checkpoint(
        status=SUCCEEDED,
        subject_id="batch_x",
        batch_entries=[
            BatchEntry(run_id="a", status=run_pb2.RUN_STATUS_COMPLETED, output=Payload(data=b"1")),
            BatchEntry(
                status=run_pb2.RUN_STATUS_FAILED,
                error=failure(payload_pb2.TASK_ERROR_KIND_NOT_TRIGGERED, "TASK_NOT_FOUND"),
            ),
            BatchEntry(run_id="c", status=run_pb2.RUN_STATUS_COMPLETED, output=Payload(data=b"3")),
        ],
    )
    items = [Page(number=1), write_page.item(Page(number=2), idempotency_key="k"), Page(number=3)]
    result = await write_page.batch_trigger_and_wait(items)
    assert [each.output for each in result] == [1, None, 3]
    assert not result.ok
    assert len(result) == 3
    with pytest.raises(SubtaskRunError):
        result.unwrap()
    handle = await write_page.batch_trigger(items)
    assert [isinstance(each, RunHandle) for each in handle.outcomes] == [True, False, True]
    assert isinstance(handle.errors[1], TaskNotFoundError)


async def test_a_batch_that_its_key_found_may_have_other_items(scope, caplog):
    entries = [
        BatchEntry(run_id="a", status=run_pb2.RUN_STATUS_COMPLETED, output=Payload(data=b"1")),
        BatchEntry(run_id="b", status=run_pb2.RUN_STATUS_COMPLETED, output=Payload(data=b'{"any": 1}')),
    ]
    scope.answers["write-one-page"] = Checkpoint(
        status=SUCCEEDED, subject_id="batch_x", is_cached=True, payload_differs=True, batch_entries=entries
    )
    handle = await write_page.batch_trigger([Page(number=1)], idempotency_key="k")
    assert (handle.id, handle.is_cached, handle.payload_differs) == ("batch_x", True, True)
    assert [(each.id, each.is_cached) for each in handle.runs] == [("a", True), ("b", True)]
    assert "other items" in caplog.text
    result = await write_page.batch_trigger_and_wait([Page(number=1)], idempotency_key="k")
    assert result.payload_differs
    assert [each.output for each in result] == [1, {"any": 1}]


async def test_batch_limits(scope):
    with pytest.raises(InvalidArgumentError, match="1 to 1,000"):
        tick.batch_trigger([])
    with pytest.raises(InvalidArgumentError, match="1 to 1,000"):
        batch.trigger([tick.item()] * 1001)
    with pytest.raises(TooLargeError, match="batch limit"):
        batch.trigger([tasks.item("x", "x" * 1_000_000)] * 17)
    with pytest.raises(InvalidPayloadError, match="item 1"):
        write_page.batch_trigger([Page(number=1), "bad"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="tags"):
        batch.trigger([tick.item()], tags="a")  # type: ignore[call-arg]
    assert not scope.calls


async def test_waits(scope):
    await wait.for_(minutes=1, seconds=30)
    await wait.for_(timedelta(days=1))
    await wait.for_("1h")
    assert [call.record.wait.delay.seconds for call in scope.calls] == [90, 86400, 3600]
    assert not scope.calls[0].record.fingerprint
    for bad in ({"seconds": -1}, {"hours": float("nan")}, {"seconds": "5"}, {"weeks": 1e9}):
        with pytest.raises(InvalidDurationError):
            wait.for_(**bad)
    with pytest.raises(InvalidDurationError, match="not both"):
        wait.for_("1h", seconds=3)


async def test_until(scope):
    when = datetime(2030, 1, 1, tzinfo=UTC)
    await wait.until(when)
    assert scope.calls[0].record.wait.until_us == int(when.timestamp()) * 1_000_000
    with pytest.raises(InvalidArgumentError, match="time zone"):
        wait.until(datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(InvalidArgumentError, match="not a datetime"):
        wait.until(time.time())  # type: ignore[arg-type]


async def test_until_in_the_past(scope):
    past = datetime(2020, 1, 1, tzinfo=UTC)
    await wait.until(past)
    with pytest.raises(InvalidArgumentError, match="was in the past"):
        await wait.until(past, throw_if_in_the_past=True)
    # On re-entry the instant is always past: what counts is what it was the first time.
    scope.answers["wait.until: is it in the past?"] = Checkpoint(status=SUCCEEDED, value=Payload(data=b"false"))
    await wait.until(past, throw_if_in_the_past=True)


async def test_tokens(scope):
    token = await wait.create_token(timeout="1h", tags="t", idempotency_key="k")
    record = scope.calls[0].record.token
    assert token.id == record.token_id
    assert record.timeout.seconds == 3600
    scope.answers[token.id] = Checkpoint(status=SUCCEEDED, value=Payload(data=b'{"number": 1}'))
    result = await wait.for_token(token, Page)
    assert result.unwrap() == Page(number=1)
    scope.answers[token.id] = Checkpoint(status=FAILED, error=failure(payload_pb2.TASK_ERROR_KIND_TIMED_OUT))
    failed = await wait.for_token(token.id)
    assert not failed.ok
    with pytest.raises(TokenFailedError):
        failed.unwrap()
    await wait.create_token(timeout=None)
    assert not scope.calls[-1].record.token.HasField("timeout")


async def test_metadata_and_tags(scope):
    scope.document = {"a": [1]}
    copy = metadata.current()
    copy["a"].append(2)
    assert metadata.get("a") == [1]
    assert metadata.get("b", 5) == 5
    metadata.set("a", {"x": 1})
    metadata.increment("n", 2)
    metadata.append("l", 1)
    metadata.remove("l", 1)
    metadata.delete("a")
    metadata.parent.set("p", 1)
    metadata.root.increment("r")
    assert [(op.target, op.verb, op.key, op.value) for op in scope.operations] == [
        (1, 1, "a", b'{"x":1}'),
        (1, 3, "n", b"2"),
        (1, 4, "l", b"1"),
        (1, 5, "l", b"1"),
        (1, 2, "a", b""),
        (2, 1, "p", b"1"),
        (3, 3, "r", b"1"),
    ]
    tags.add("a", ["b", "a"])
    assert scope.tags == ["a", "b"]
    for bad in (lambda: metadata.set("", 1), lambda: metadata.increment("n", "x"), lambda: tags.add("")):
        with pytest.raises(InvalidArgumentError):
            bad()
    with pytest.raises(PayloadError):
        metadata.set("n", float("nan"))


async def test_shielded(scope):
    async with shielded():
        assert scope.shields == 1
    assert scope.shields == 0


async def test_the_vocabulary_outside_a_run():
    for call in (
        lambda: metadata.set("a", 1),
        metadata.current,
        lambda: tags.add("a"),
        lambda: wait.for_token("token_x"),
    ):
        with pytest.raises(NotInRunError):
            call()
