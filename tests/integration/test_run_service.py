"""RunService over a real socket: triggering, showing and changing runs."""

from __future__ import annotations

from typing import Any

import grpc
import sqlalchemy as sa

from harness.edge import (
    INVALID,
    NOT_FOUND,
    NOW,
    Edge,
    item,
    refused,
    text,
)
from holdfast.v1 import run_service_pb2 as pb
from holdfast.v1.payload_pb2 import Payload, TaskError
from holdfast.v1.run_pb2 import IdempotencyKey, KeyPart, TriggerItem, TriggerOptions
from holdfast_scheduler import convert, ids, model, schema
from holdfast_scheduler.errors import StorageUnavailableError
from holdfast_scheduler.model import Handle, ItemFault
from holdfast_scheduler.settings import Limits
from holdfast_scheduler.unit_of_work import key_hash


async def test_a_bad_item_fails_alone(lite: Edge) -> None:
    items = [
        item(),
        item("exprt"),
        item(options=TriggerOptions(tags=["a\0"])),
        TriggerItem(task_id="export", payload=Payload(data=b"x" * (5 << 20))),
        item(),
    ]
    response = await lite.runs.Trigger(pb.TriggerRequest(items=items))
    outcomes = [one.WhichOneof("outcome") for one in response.outcomes]
    assert outcomes == ["handle", "error", "error", "error", "handle"]
    unknown, tag, large = (one.error for one in response.outcomes[1:4])
    assert (unknown.code, unknown.reason, unknown.metadata["near"]) == (5, "TASK_NOT_FOUND", "export")
    assert (tag.code, tag.reason) == (3, "INVALID_ARGUMENT")
    assert (large.reason, large.metadata["limit"]) == ("TOO_LARGE", "payload_bytes")
    shown = await lite.runs.GetRun(pb.GetRunRequest(run_id=response.outcomes[4].handle.run_id))
    assert shown.run.task_id == "export"


async def test_request_level_faults_refuse_the_whole(lite: Edge) -> None:
    async with refused(INVALID, "INVALID_ARGUMENT", "items: is empty"):
        await lite.runs.Trigger(pb.TriggerRequest())
    async with refused(INVALID, "TOO_LARGE", "1,001 items is more than the limit batch_items of 1,000"):
        await lite.runs.Trigger(pb.TriggerRequest(items=[item()] * 1001))
    async with refused(INVALID, "TOO_LARGE", "batch_bytes"):
        payload = Payload(data=b"x" * (1 << 20))
        await lite.runs.Trigger(pb.TriggerRequest(items=[TriggerItem(task_id="export", payload=payload)] * 17))
    async with refused(INVALID, "INVALID_ARGUMENT", "namespace"):
        await lite.runs.Trigger(pb.TriggerRequest(namespace="\0", items=[item()]))
    assert lite.engine.commands == []


async def test_a_batch_keeps_the_places_of_bad_items(lite: Edge) -> None:
    batch_id = ids.new_id()

    def answer(command: model.TriggerBatch) -> model.BatchOutcome:
        assert command.batch_id == batch_id
        assert command.id_chosen
        assert command.key is not None
        outcomes = [run.error or Handle(run.id, is_cached=True) for run in command.items]
        return model.BatchOutcome(batch_id, False, outcomes)

    lite.engine.answer = answer
    request = pb.BatchTriggerRequest(
        batch_id=ids.to_text(ids.BATCH, batch_id),
        items=[item(), item(task=""), item()],
        idempotency_key=IdempotencyKey(parts=[KeyPart(text="k")]),
    )
    response = await lite.runs.BatchTrigger(request)
    assert response.batch_id == request.batch_id
    assert [one.WhichOneof("outcome") for one in response.outcomes] == ["handle", "error", "handle"]
    assert response.outcomes[0].handle.is_cached


async def test_engine_errors_become_statuses(lite: Edge) -> None:
    def away(_command: Any) -> Any:
        raise StorageUnavailableError()

    lite.engine.answer = away
    async with refused(grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE", "ask again with the same ids"):
        await lite.runs.Trigger(pb.TriggerRequest(items=[item()]))


async def test_replay_takes_the_old_inputs(edge: Edge) -> None:
    options = TriggerOptions(tags=["t"], queue="q")
    options.delay.FromSeconds(60)
    payload = Payload(data=b'{"a":1}')
    old = edge.engine.insert(payload=payload.SerializeToString(), options=options.SerializeToString())
    new = ids.new_id()
    response = await edge.runs.ReplayRun(pb.ReplayRunRequest(run_id=text(old), new_run_id=text(new)))
    assert response.handle.run_id == text(new)
    (run,) = edge.engine.commands[-1].items
    assert (run.is_replay, run.tags, run.queue, run.delay_us, run.fingerprint) == (True, ["t"], "q", 0, b"f")
    assert Payload.FromString(run.payload) == payload
    other = Payload(data=b"2")
    await edge.runs.ReplayRun(pb.ReplayRunRequest(run_id=text(old), payload=other))
    (run,) = edge.engine.commands[-1].items
    assert Payload.FromString(run.payload) == other
    assert run.fingerprint != b"f"
    async with refused(NOT_FOUND, "RUN_NOT_FOUND"):
        await edge.runs.ReplayRun(pb.ReplayRunRequest(run_id=text(ids.new_id())))


async def test_get_full(edge: Edge) -> None:
    engine = edge.engine
    child = ids.new_id()
    session = ids.new_id()
    batch = ids.new_id()
    run_id = engine.insert(
        status=model.WAITING, session=session, attempt=2, started_at=NOW, fence=3, tags=("a",), payload=b"\n\x021 "
    )
    engine.insert(child, status=model.COMPLETED, parent=run_id)
    name = {"namespace": "default"}
    record = {
        **name,
        "run_id": run_id,
        "identity": "i",
        "name": "n",
        "fingerprint": b"",
        "attempt": 1,
        "value": None,
        "subject": None,
        "location": "tasks.py:41",
    }
    value = Payload(data=b"1").SerializeToString()
    error = TaskError(type="ValueError", message="no").SerializeToString()
    records = [
        {**record, "seq": 1, "kind": model.STEP, "status": model.SUCCEEDED, "settled_order": 1, "value": value},
        {**record, "seq": 2, "kind": model.CHILD, "status": model.SUCCEEDED, "settled_order": 2, "subject": child},
        {**record, "seq": 3, "kind": model.BATCH, "status": model.PENDING, "settled_order": 0, "subject": batch},
    ]
    engine.write(
        sa.insert(schema.checkpoints).values(records),
        sa.insert(schema.sessions).values(
            **name, id=session, secret=b"", connection_no=1, replica=b"", lease_until=0, worker="w1", version=""
        ),
        sa.insert(schema.attempts).values(
            **name, run_id=run_id, fence=1, number=1, state=3, started_at=NOW - 9, ended_at=NOW - 5, error=error
        ),
        sa.insert(schema.run_metadata).values(
            **name, run_id=run_id, committed=b"{}", live=b'{"page":7}', marks=b"{}", live_marks=b"{}"
        ),
        sa.insert(schema.batches).values(**name, id=batch, remaining=1, fingerprint=b"", created_at=NOW),
        sa.insert(schema.batch_items).values(**name, batch=batch, place=0, run_id=child),
        sa.insert(schema.batch_items).values(**name, batch=batch, place=1, error=error),
    )
    run = (await edge.runs.GetRun(pb.GetRunRequest(run_id=text(run_id), view=pb.RUN_VIEW_FULL))).run
    assert (run.id, run.status, run.worker, run.metadata, run.fence) == (text(run_id), 4, "w1", b'{"page":7}', 3)
    assert (run.root_run_id, list(run.tags), run.payload.data) == (text(run_id), ["a"], b"1 ")
    assert list(run.child_run_ids) == [text(child)]
    assert [(a.number, a.state, a.error.message) for a in run.attempts] == [(1, 3, "no"), (2, 1, "")]
    step, called, waited = run.checkpoints
    assert (step.value.data, called.subject_id, called.child_status) == (b"1", text(child), model.COMPLETED)
    assert waited.subject_id == ids.to_text(ids.BATCH, batch)
    assert [(e.run_id, e.status) for e in waited.batch_entries] == [(text(child), 10), ("", 11)]
    basic = (await edge.runs.GetRun(pb.GetRunRequest(run_id=text(run_id)))).run
    assert not basic.checkpoints
    assert not basic.HasField("payload")


async def test_values_beyond_the_budget_are_left_out(lite: Edge) -> None:
    run_id = lite.engine.insert()
    value = Payload(data=b"x" * 256 * 1024).SerializeToString()
    rows = [
        {
            "namespace": "default",
            "run_id": run_id,
            "seq": seq,
            "identity": "i",
            "kind": model.STEP,
            "name": "n",
            "status": model.SUCCEEDED,
            "fingerprint": b"",
            "settled_order": seq,
            "attempt": 1,
            "value": value,
        }
        for seq in range(1, 11)
    ]
    lite.engine.write(sa.insert(schema.checkpoints).values(rows))
    run = (await lite.runs.GetRun(pb.GetRunRequest(run_id=text(run_id), view=pb.RUN_VIEW_FULL))).run
    assert len(run.checkpoints) == 10
    assert [one.HasField("value") for one in run.checkpoints] == [True] * 3 + [False] * 7


async def test_errors_of_many_attempts_are_left_out_but_of_the_newest(lite: Edge) -> None:
    run_id = lite.engine.insert()
    error = TaskError(type="ValueError", message="x" * 200_000).SerializeToString()
    rows = [
        {"namespace": "default", "run_id": run_id, "fence": n, "number": n, "state": 3, "ended_at": NOW, "error": error}
        for n in range(1, 41)
    ]
    lite.engine.write(sa.insert(schema.attempts).values(rows))
    run = (await lite.runs.GetRun(pb.GetRunRequest(run_id=text(run_id), view=pb.RUN_VIEW_FULL))).run
    assert [one.number for one in run.attempts] == list(range(1, 41))
    assert [one.number for one in run.attempts if one.HasField("error")] == [39, 40]


async def test_unknown_and_malformed_ids(lite: Edge) -> None:
    async with refused(NOT_FOUND, "RUN_NOT_FOUND") as info:
        missing = text(ids.new_id())
        await lite.runs.GetRun(pb.GetRunRequest(run_id=missing))
    assert info.metadata["run_id"] == missing
    async with refused(INVALID, "INVALID_ARGUMENT", "run_id: 'x' is not an id"):
        await lite.runs.GetRun(pb.GetRunRequest(run_id="x"))


async def test_pages_are_stable_and_newest_first(edge: Edge) -> None:
    made = sorted(edge.engine.insert(tags=("t",)) for _ in range(7))
    seen: list[str] = []
    request = pb.ListRunsRequest(page_size=3, filter="tag = t")
    while True:
        response = await edge.runs.ListRuns(request)
        seen += [run.id for run in response.runs]
        edge.engine.insert(tags=("t",))  # newer runs do not shift the pages
        request.page_token = response.next_page_token
        if not request.page_token:
            break
    assert seen == [text(run_id) for run_id in reversed(made)]
    async with refused(INVALID, "INVALID_FILTER", "page_token"):
        first = await edge.runs.ListRuns(pb.ListRunsRequest(page_size=1))
        await edge.runs.ListRuns(pb.ListRunsRequest(page_token=first.next_page_token, filter="tag = t"))


KEY = IdempotencyKey(parts=[KeyPart(text="org"), KeyPart(number=7)])


async def test_every_filter(edge: Edge) -> None:
    engine = edge.engine
    batch, parent = ids.new_id(), ids.new_id()
    wanted = engine.insert(status=model.FAILED, tags=("t",), parent=parent, version="v", queue="q")
    engine.insert(task="import")
    engine.write(
        sa.insert(schema.batch_items).values(namespace="default", batch=batch, place=0, run_id=wanted),
    )
    batch_text = ids.to_text(ids.BATCH, batch)
    for condition in (
        "status = FAILED",
        "task = export",
        "queue = q",
        "tag = t",
        f"batch = {batch_text}",
        f"parent = {text(parent)}",
        "version = v",
        "status = FAILED AND task = export AND created_after = 2000-01-01T00:00:00Z",
    ):
        response = await edge.runs.ListRuns(pb.ListRunsRequest(filter=condition))
        assert [run.id for run in response.runs] == [text(wanted)], condition
    digest = key_hash("run", "export", convert.key_use(KEY, limits=Limits()), model.SCOPE_GLOBAL, b"", 0)
    within = key_hash("run", "export", convert.key_use(KEY, limits=Limits()), model.SCOPE_RUN, parent, 0)
    other = engine.insert(status=model.FAILED)
    held = {"namespace": "default", "kind": "run", "task": "export", "expires_at": NOW}
    engine.write(
        sa.insert(schema.idempotency_keys).values(**held, hash=digest, subject=other),
        sa.insert(schema.idempotency_keys).values(**held, hash=within, subject=wanted),
    )
    for condition, found in (
        ('key_parts = "[\\"org\\", 7]" AND task = export', [other]),
        (f'key_parts = "[\\"org\\", 7]" AND task = export AND parent = {text(parent)}', [wanted]),
        ('key_parts = "[\\"org\\", 7]" AND task = export AND status = COMPLETED', []),
        ('key_parts = "[\\"org\\", \\"7\\"]" AND task = export', []),
    ):
        response = await edge.runs.ListRuns(pb.ListRunsRequest(filter=condition))
        assert [run.id for run in response.runs] == [text(one) for one in found], condition
    response = await edge.runs.ListRuns(pb.ListRunsRequest(filter="created_before = 2000-01-01T00:00:00Z"))
    assert not response.runs
    async with refused(INVALID, "INVALID_FILTER", "did you mean|unknown field"):
        await edge.runs.ListRuns(pb.ListRunsRequest(filter="stat = FAILED"))


async def test_a_page_ends_early_rather_than_grow(lite: Edge) -> None:
    output = Payload(data=b"x" * (1 << 20)).SerializeToString()
    for _ in range(5):
        lite.engine.insert(status=model.COMPLETED, output=output)
    first = await lite.runs.ListRuns(pb.ListRunsRequest())
    assert len(first.runs) == 2
    second = await lite.runs.ListRuns(pb.ListRunsRequest(page_token=first.next_page_token))
    third = await lite.runs.ListRuns(pb.ListRunsRequest(page_token=second.next_page_token))
    assert (len(second.runs), len(third.runs), third.next_page_token) == (2, 1, "")


async def test_logs_in_pages(edge: Edge) -> None:
    run_id = edge.engine.insert()
    places = [(1, 1, 0), (1, 1, 1), (1, 2, 0), (2, 1, 0)]
    for fence, report, place in places:
        record = pb.LogRecord(message=f"{fence}.{report}.{place}").SerializeToString()
        row = {"run_id": run_id, "fence": fence, "report": report, "place": place, "record": record}
        edge.engine.write(sa.insert(schema.run_logs).values(namespace="default", **row))
    request = pb.ListRunLogsRequest(run_id=text(run_id), page_size=3)
    first = await edge.runs.ListRunLogs(request)
    request.page_token = first.next_page_token
    second = await edge.runs.ListRunLogs(request)
    found = [record.message for record in (*first.records, *second.records)]
    assert found == ["1.1.0", "1.1.1", "1.2.0", "2.1.0"]
    assert not second.next_page_token
    async with refused(NOT_FOUND, "RUN_NOT_FOUND"):
        await edge.runs.ListRunLogs(pb.ListRunLogsRequest(run_id=text(ids.new_id())))


async def test_explain_is_one_exact_sentence(edge: Edge) -> None:
    engine = edge.engine
    error = TaskError(type="ValueError", message="no\nmore").SerializeToString()
    backing_off = engine.insert(
        status=model.DELAYED, reason=model.BACKING_OFF, due_at=NOW, attempt=1, max_attempts=3, wake_at=NOW
    )
    engine.write(
        sa.insert(schema.attempts).values(
            namespace="default", run_id=backing_off, fence=1, number=1, state=3, ended_at=NOW, error=error
        )
    )
    unservable = engine.insert(status=model.QUEUED, task="import", queue="task/import")
    engine.insert(status=model.QUEUED)
    second = engine.insert(status=model.QUEUED, order_at=NOW + 1)
    child = engine.insert(status=model.QUEUED, order_at=NOW + 2)
    waiting = engine.insert(status=model.WAITING, since=NOW)
    engine.write(
        sa.insert(schema.checkpoints).values(
            namespace="default",
            run_id=waiting,
            seq=1,
            identity="i",
            kind=model.CHILD,
            name="write_page",
            status=model.PENDING,
            fingerprint=b"",
            attempt=1,
            subject=child,
            location="tasks.py:7",
        )
    )

    async def sentence(run_id: bytes) -> str:
        return str((await edge.runs.ExplainRun(pb.ExplainRunRequest(run_id=text(run_id)))).sentence)

    assert await sentence(backing_off) == (
        "Attempt 1 of 3 failed (ValueError: no); the next one is queued at 2027-01-15T08:00:00.000Z."
    )
    assert await sentence(unservable) == (
        "It is queued in 'task/import', and no connected worker has the task 'import'."
    )
    assert await sentence(second) == (
        "It is queued in 'task/export'; 1 connected worker has its task and takes no run at the moment,"
        " and 1 run is before it."
    )
    assert await sentence(waiting) == (
        f"It waits since 2027-01-15T08:00:00.000Z for its child {text(child)} of 'write_page', which is QUEUED"
        " (asked at tasks.py:7)."
    )
    done = engine.insert(status=model.COMPLETED)
    assert await sentence(done) == "It ended COMPLETED at 2027-01-15T08:00:00.000Z."


def checkpoint(run_id: bytes, seq: int, kind: int, **columns: object) -> sa.Insert:
    row = {
        "identity": "i",
        "name": "n",
        "fingerprint": b"",
        "attempt": 1,
        "status": model.PENDING,
        "location": "t.py:1",
    }
    values = {"namespace": "default", "run_id": run_id, "seq": seq, "kind": kind, **row, **columns}
    return sa.insert(schema.checkpoints).values(values)


async def test_explain_names_what_each_run_waits_for(edge: Edge) -> None:
    engine, name, at = edge.engine, {"namespace": "default"}, "2027-01-15T08:00:00.000Z"
    session = ids.new_id()
    engine.write(
        sa.insert(schema.sessions).values(
            **name,
            id=session,
            secret=b"",
            connection_no=1,
            replica=b"replica",
            lease_until=NOW,
            worker="w1",
            version="v",
        ),
        sa.insert(schema.tasks).values(**name, id="export", version="v", registered_at=1, definition=b"", queue=""),
        sa.insert(schema.queues).values(**name, name="limited", concurrency_limit=1, rate_limit=0),
    )
    busy = {"session": session, "attempt": 2, "max_attempts": 3, "since": NOW, "started_at": NOW}
    executing = engine.insert(status=model.EXECUTING, **busy)
    stepping = engine.insert(status=model.EXECUTING, queue="limited", lane="acme", **busy)
    engine.write(checkpoint(stepping, 1, model.STEP, name="charge", status=model.SUCCEEDED, settled_order=1))
    queued = engine.insert(status=model.QUEUED)
    held = engine.insert(status=model.QUEUED, queue="limited", lane="acme")
    free = engine.insert(status=model.QUEUED, queue="limited", lane="other")

    waiting = engine.insert(status=model.WAITING, since=NOW)
    batch, token = ids.new_id(), ids.new_id()
    engine.write(
        sa.insert(schema.batches).values(**name, id=batch, remaining=2, fingerprint=b"", created_at=NOW),
        *(sa.insert(schema.batch_items).values(**name, batch=batch, place=n, run_id=ids.new_id()) for n in range(3)),
        sa.insert(schema.tokens).values(**name, id=token, status=1, created_at=NOW, timeout_at=NOW),
        checkpoint(waiting, 1, model.BATCH, subject=batch),
        checkpoint(waiting, 2, model.TOKEN_WAIT, subject=token, location=""),
        checkpoint(waiting, 3, model.WAIT, due_at=NOW, location=""),
        checkpoint(waiting, 4, model.WAIT, due_at=NOW + 1),
    )
    canceling = engine.insert(status=model.CANCELING, wake_at=NOW, session=session)
    error = TaskError(type="ValueError", message="no such page.").SerializeToString()
    failed = engine.insert(status=model.FAILED, attempt=3, max_attempts=3)
    crashed = engine.insert(status=model.CRASHED, attempt=1, recoveries=11)
    engine.write(
        sa.update(schema.run_results).where(schema.run_results.c.run_id.in_([failed, crashed])).values(error=error)
    )
    for run_id, sentence in {
        executing: f"Worker 'w1' executes attempt 2 of 3 since {at}.",
        stepping: f"Worker 'w1' executes attempt 2 of 3 since {at};"
        " its last checkpoint is the step 'charge' at t.py:1.",
        queued: "It is queued in 'task/export', and it is the next one; 1 connected worker has its task and every"
        " slot is taken, by 3 runs.",
        held: "It is queued as the next one with the key 'acme' on queue 'limited', limit 1 for each key.",
        free: "It is queued in 'limited'; 1 connected worker has its task and every slot is taken, by 3 runs, and 1"
        " run is before it.",
        waiting: f"It waits since {at} for the first of: its batch {ids.to_text(ids.BATCH, batch)} (1 of 3 done)"
        f" (asked at t.py:1); the token {ids.to_text(ids.TOKEN, token)}, at the latest until {at}; {at}; 1 more.",
        canceling: f"Its cancellation was accepted; worker 'w1' cleans up until {at} at the latest.",
        failed: f"It ended FAILED at {at} in attempt 3 of 3 (ValueError: no such page).",
        crashed: f"It ended CRASHED at {at} in attempt 1, after its worker was lost 11 times"
        " (ValueError: no such page).",
    }.items():
        assert (await edge.runs.ExplainRun(pb.ExplainRunRequest(run_id=text(run_id)))).sentence == sentence


async def test_cancel_and_reschedule(lite: Edge) -> None:
    run_id = lite.engine.insert()
    lite.engine.answer = lambda command: True
    response = await lite.runs.CancelRun(pb.CancelRunRequest(run_id=text(run_id)))
    assert (response.accepted, response.run.id) == (True, text(run_id))
    lite.engine.answer = lambda command: None
    request = pb.RescheduleRunRequest(run_id=text(run_id))
    request.delay.FromSeconds(5)
    await lite.runs.RescheduleRun(request)
    assert lite.engine.commands[-1].delay_us == 5_000_000
    async with refused(INVALID, "INVALID_ARGUMENT", "when"):
        await lite.runs.RescheduleRun(pb.RescheduleRunRequest(run_id=text(run_id)))
    lite.engine.answer = lambda command: ItemFault(9, "WRONG_STATUS", "it is WAITING", {"run_id": "r"})
    async with refused(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATUS", "it is WAITING"):
        await lite.runs.RescheduleRun(request)


async def test_reset_a_key(lite: Edge) -> None:
    lite.engine.answer = lambda command: True
    key = IdempotencyKey(parts=[KeyPart(text="k")])
    request = pb.ResetIdempotencyKeyRequest(task_id="export", idempotency_key=key)
    assert (await lite.runs.ResetIdempotencyKey(request)).existed
    assert lite.engine.commands[-1].key.parts == b"t1:k"
    request.idempotency_key.scope = model.SCOPE_ATTEMPT  # type: ignore[assignment]
    async with refused(INVALID, "INVALID_KEY", "only inside a run"):
        await lite.runs.ResetIdempotencyKey(request)
    request.run_id = text(ids.new_id())
    async with refused(INVALID, "INVALID_ARGUMENT", "attempt"):
        await lite.runs.ResetIdempotencyKey(request)


async def test_bulk_cancel(lite: Edge) -> None:
    made = {lite.engine.insert(tags=("t",)) for _ in range(120)}
    later = lite.engine.insert(tags=("t",))
    lite.engine.insert()
    lite.engine.write(  # only one of them was triggered after the operation began
        sa.update(schema.run_inputs).where(schema.run_inputs.c.run_id != later).values(created_at=1)
    )
    refuses = next(iter(made))
    lite.engine.answer = lambda command: command.run_id != refuses
    request = pb.BulkRunsRequest(action=pb.BULK_ACTION_CANCEL, filter="tag = t")
    progress = [response async for response in lite.runs.BulkRuns(request)]
    assert [response.done for response in progress] == [False, True]
    assert (progress[-1].acted, progress[-1].skipped) == (119, 1)
    assert {command.run_id for command in lite.engine.commands} == made
    async with refused(INVALID, "INVALID_FILTER", "by accident"):
        await lite.runs.BulkRuns(pb.BulkRunsRequest(action=pb.BULK_ACTION_CANCEL)).read()


async def test_a_bulk_operation_goes_on_where_its_stream_broke(edge: Edge) -> None:
    made = {edge.engine.insert(tags=("t",)) for _ in range(250)}
    edge.engine.write(sa.update(schema.run_inputs).values(created_at=1))
    operation = ids.to_text(ids.BULK, ids.new_id())
    request = pb.BulkRunsRequest(action=pb.BULK_ACTION_REPLAY, filter="tag = t", operation_id=operation)
    stream = edge.runs.BulkRuns(request)
    first = await stream.read()
    stream.cancel()
    assert (first.acted, first.done) == (100, False)
    request.page_token = first.page_token
    rest_of_it = [response async for response in edge.runs.BulkRuns(request)]
    assert [(one.acted, one.done) for one in rest_of_it] == [(200, False), (250, True)]
    # The same page again: the ids of its replays are the same.
    again = edge.runs.BulkRuns(request)
    await again.read()
    again.cancel()
    replays = [item for command in edge.engine.commands for item in command.items]
    assert all(item.is_replay for item in replays)
    assert len({item.id for item in replays}) == len(made)
    assert len(replays) >= len(made) + 100
    async with refused(INVALID, "INVALID_ARGUMENT", "send its operation_id too"):
        await edge.runs.BulkRuns(pb.BulkRunsRequest(action=1, filter="tag = t", page_token=first.page_token)).read()
    request.filter = "tag = other"
    async with refused(INVALID, "INVALID_FILTER", "page_token"):
        await edge.runs.BulkRuns(request).read()
