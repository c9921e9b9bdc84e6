"""Two ways to use a scheduler behind one small interface: the Python SDK, and nothing but the generated stubs.

Everything is plain data, so that a scenario cannot tell which of them it plays on.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from harness.scenario_tasks import Ask, options_of, seen, seen_of_batch
from holdfast import HoldfastError, batch, bulk, idempotency_keys, queues, runs, tasks, wait
from holdfast.v1 import queue_service_pb2 as queue_api
from holdfast.v1 import run_pb2
from holdfast.v1 import run_service_pb2 as run_api
from holdfast.v1 import token_service_pb2 as token_api
from holdfast.v1.payload_pb2 import Payload, TaskError
from holdfast.v1.queue_service_pb2_grpc import QueueServiceStub
from holdfast.v1.run_pb2 import IdempotencyKey, KeyPart, TriggerItem
from holdfast.v1.run_service_pb2_grpc import RunServiceStub
from holdfast.v1.task_pb2 import QueueDefinition
from holdfast.v1.token_service_pb2_grpc import TokenServiceStub

SPENT = ("queued", "executing", "waiting", "delayed", "backing_off")
"""What a run spends its life on, as `explain` says it."""


class Refused(Exception):
    """The scheduler refused a request; `reason` is the published one."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class SeenRun:
    """A run, as a client sees it."""

    id: str
    status: str
    reason: str
    attempt: int
    max_attempts: int
    queue: str
    concurrency_key: str
    priority: float
    tags: list[str]
    metadata: dict[str, Any]
    parent: str
    root: str
    batch: str
    is_replay: bool
    payload: Any
    output: Any
    error: str
    """Type of the error."""
    started_at: float
    attempts: list[str]
    checkpoints: list[tuple[str, str]]
    children: list[str]

    @property
    def is_final(self) -> bool:
        return self.status in ("COMPLETED", "FAILED", "CRASHED", "TIMED_OUT", "EXPIRED", "CANCELED")


@dataclass(frozen=True)
class SeenToken:
    """A token, as a client sees it."""

    id: str
    status: str
    tags: list[str]
    data: Any
    error: str
    is_cached: bool


@dataclass(frozen=True)
class SeenQueue:
    """A queue, as a client sees it."""

    name: str
    limit: int
    total_limit: int
    overridden: bool
    paused: bool
    queued: int


class Driver(Protocol):
    """What a scenario may do. Outcomes of triggers are those of `scenario_tasks.seen`."""

    async def trigger(self, ask: Ask) -> dict[str, Any]: ...
    async def batch(self, asks: Sequence[Ask], key: str | None = None) -> builtins.list[dict[str, Any]]: ...
    async def end(self, run_id: str) -> SeenRun: ...
    async def get(self, run_id: str) -> SeenRun: ...
    async def cancel(self, run_id: str) -> None: ...
    async def replay(self, run_id: str, *payload: Any) -> str: ...
    async def reschedule(self, run_id: str, seconds: float) -> None: ...
    async def reset(self, task: str, key: str) -> bool: ...
    async def list(self, *, limit: int = 50, **conditions: str) -> builtins.list[builtins.list[str]]:
        """Ids, page by page."""
        ...

    def watch(self, run_id: str) -> AsyncIterator[str]:
        """Statuses, until the run has ended."""
        ...

    async def logs(self, run_id: str) -> builtins.list[tuple[str, str, dict[str, Any]]]: ...
    async def create_token(self, timeout: float | None, tags: Sequence[str] = (), key: str | None = None) -> SeenToken:
        """`timeout` in seconds; None for never."""
        ...

    async def complete_token(self, token_id: str, data: Any) -> bool: ...
    async def fail_token(self, token_id: str, message: str) -> bool: ...
    async def get_token(self, token_id: str) -> SeenToken: ...
    async def list_tokens(self, *, limit: int = 50, **conditions: str) -> builtins.list[builtins.list[str]]:
        """Ids, page by page."""
        ...

    async def bulk(self, action: str, **conditions: str) -> tuple[int, int]:
        """`cancel` or `replay` all that match; how many were acted on, and how many skipped."""
        ...

    async def explain(self, run_id: str) -> tuple[str, dict[str, float]]:
        """The sentence, and seconds of the run's life by what it spent them on."""
        ...

    async def get_queue(self, name: str) -> SeenQueue: ...
    async def list_queues(self) -> builtins.list[str]: ...
    async def pause_queue(self, name: str) -> SeenQueue: ...
    async def resume_queue(self, name: str) -> SeenQueue: ...
    async def override_queue(self, name: str, limit: int) -> SeenQueue: ...
    async def clear_override(self, name: str) -> SeenQueue: ...


class StubDriver:
    """Nothing but the generated code and gRPC, as a client in any language has it."""

    def __init__(self, channel: aio.Channel) -> None:
        self._runs = RunServiceStub(channel)
        self._tokens = TokenServiceStub(channel)
        self._queues = QueueServiceStub(channel)

    async def trigger(self, ask: Ask) -> dict[str, Any]:
        response = await _asked(self._runs.Trigger(run_api.TriggerRequest(items=[_item(ask)])))
        return _seen(response.outcomes[0])

    async def batch(self, asks: Sequence[Ask], key: str | None = None) -> builtins.list[dict[str, Any]]:
        request = run_api.BatchTriggerRequest(items=[_item(ask) for ask in asks])
        if key is not None:
            request.idempotency_key.CopyFrom(_key(key))
        response = await _asked(self._runs.BatchTrigger(request))
        of_batch = {
            "batch_id": response.batch_id,
            "batch_is_cached": response.is_cached,
            "batch_differs": response.payload_differs,
        }
        return [{**_seen(outcome), **of_batch} for outcome in response.outcomes]

    async def end(self, run_id: str) -> SeenRun:
        while True:
            request = run_api.WaitRunRequest(run_id=run_id, timeout=Duration(seconds=30))
            if (await _asked(self._runs.WaitRun(request))).run.status >= run_pb2.RUN_STATUS_COMPLETED:
                return await self.get(run_id)

    async def get(self, run_id: str) -> SeenRun:
        request = run_api.GetRunRequest(run_id=run_id, view=run_api.RUN_VIEW_FULL)
        return _seen_run((await _asked(self._runs.GetRun(request))).run)

    async def cancel(self, run_id: str) -> None:
        await _asked(self._runs.CancelRun(run_api.CancelRunRequest(run_id=run_id)))

    async def replay(self, run_id: str, *payload: Any) -> str:
        request = run_api.ReplayRunRequest(run_id=run_id)
        if payload:
            request.payload.data = json.dumps(payload[0]).encode()
        return str((await _asked(self._runs.ReplayRun(request))).handle.run_id)

    async def reschedule(self, run_id: str, seconds: float) -> None:
        await _asked(self._runs.RescheduleRun(run_api.RescheduleRunRequest(run_id=run_id, delay=_duration(seconds))))

    async def reset(self, task: str, key: str) -> bool:
        request = run_api.ResetIdempotencyKeyRequest(task_id=task, idempotency_key=_key(key))
        return bool((await _asked(self._runs.ResetIdempotencyKey(request))).existed)

    async def list(self, *, limit: int = 50, **conditions: str) -> builtins.list[builtins.list[str]]:
        request = run_api.ListRunsRequest(page_size=limit, filter=_filter(conditions))
        pages = []
        while True:
            response = await _asked(self._runs.ListRuns(request))
            pages.append([run.id for run in response.runs])
            if not response.next_page_token:
                return pages
            request.page_token = response.next_page_token

    async def watch(self, run_id: str) -> AsyncIterator[str]:
        async for response in self._runs.WatchRuns(run_api.WatchRunsRequest(run_id=run_id)):
            yield run_pb2.RunStatus.Name(response.run.status).removeprefix("RUN_STATUS_")

    async def logs(self, run_id: str) -> builtins.list[tuple[str, str, dict[str, Any]]]:
        response = await _asked(self._runs.ListRunLogs(run_api.ListRunLogsRequest(run_id=run_id)))
        return [(record.level, record.message, json.loads(record.fields or b"{}")) for record in response.records]

    async def create_token(self, timeout: float | None, tags: Sequence[str] = (), key: str | None = None) -> SeenToken:
        request = token_api.CreateTokenRequest(no_timeout=timeout is None, tags=tags)
        if timeout is not None:
            request.timeout.CopyFrom(_duration(timeout))
        if key is not None:
            request.idempotency_key.CopyFrom(_key(key))
        response = await _asked(self._tokens.CreateToken(request))
        return _seen_token(response.token, response.is_cached)

    async def complete_token(self, token_id: str, data: Any) -> bool:
        request = token_api.CompleteTokenRequest(token_id=token_id, data=Payload(data=json.dumps(data).encode()))
        return bool((await _asked(self._tokens.CompleteToken(request))).won)

    async def fail_token(self, token_id: str, message: str) -> bool:
        request = token_api.FailTokenRequest(token_id=token_id, error=TaskError(type="TokenFailed", message=message))
        return bool((await _asked(self._tokens.FailToken(request))).won)

    async def get_token(self, token_id: str) -> SeenToken:
        return _seen_token((await _asked(self._tokens.GetToken(token_api.GetTokenRequest(token_id=token_id)))).token)

    async def list_tokens(self, *, limit: int = 50, **conditions: str) -> builtins.list[builtins.list[str]]:
        request = token_api.ListTokensRequest(page_size=limit, filter=_filter(conditions))
        pages = []
        while True:
            response = await _asked(self._tokens.ListTokens(request))
            pages.append([token.id for token in response.tokens])
            if not response.next_page_token:
                return pages
            request.page_token = response.next_page_token

    async def bulk(self, action: str, **conditions: str) -> tuple[int, int]:
        number = run_api.BulkAction.Value(f"BULK_ACTION_{action.upper()}")
        async for response in self._runs.BulkRuns(run_api.BulkRunsRequest(action=number, filter=_filter(conditions))):
            last = (response.acted, response.skipped)
            if response.done:
                return last
        raise AssertionError("the stream ended before the operation")

    async def explain(self, run_id: str) -> tuple[str, dict[str, float]]:
        found = await _asked(self._runs.ExplainRun(run_api.ExplainRunRequest(run_id=run_id)))
        return found.sentence, {name: getattr(found, name).ToTimedelta().total_seconds() for name in SPENT}

    async def list_queues(self) -> builtins.list[str]:
        response = await _asked(self._queues.ListQueues(queue_api.ListQueuesRequest(page_size=1000)))
        return [queue.definition.name for queue in response.queues]

    async def get_queue(self, name: str) -> SeenQueue:
        return _seen_queue((await _asked(self._queues.GetQueue(queue_api.GetQueueRequest(name=name)))).queue)

    async def pause_queue(self, name: str) -> SeenQueue:
        return _seen_queue((await _asked(self._queues.PauseQueue(queue_api.PauseQueueRequest(name=name)))).queue)

    async def resume_queue(self, name: str) -> SeenQueue:
        return _seen_queue((await _asked(self._queues.ResumeQueue(queue_api.ResumeQueueRequest(name=name)))).queue)

    async def override_queue(self, name: str, limit: int) -> SeenQueue:
        request = queue_api.UpdateQueueRequest(definition=QueueDefinition(name=name, concurrency_limit=limit))
        return _seen_queue((await _asked(self._queues.UpdateQueue(request))).queue)

    async def clear_override(self, name: str) -> SeenQueue:
        request = queue_api.UpdateQueueRequest(definition=QueueDefinition(name=name), clear_override=True)
        return _seen_queue((await _asked(self._queues.UpdateQueue(request))).queue)


class SdkDriver:
    """The Python SDK, with the client that is in use."""

    async def trigger(self, ask: Ask) -> dict[str, Any]:
        try:
            return seen(await tasks.trigger(ask.task, ask.payload, **options_of(ask)))
        except HoldfastError as error:
            return seen(error)

    async def batch(self, asks: Sequence[Ask], key: str | None = None) -> builtins.list[dict[str, Any]]:
        items = [tasks.item(ask.task, ask.payload, **options_of(ask)) for ask in asks]
        return seen_of_batch(await batch.trigger(items, **({} if key is None else {"idempotency_key": key})))

    async def end(self, run_id: str) -> SeenRun:
        async for _ in runs.subscribe(run_id):
            pass
        return await self.get(run_id)

    async def get(self, run_id: str) -> SeenRun:
        run = await _raised(runs.retrieve(run_id, full=True))
        return SeenRun(
            id=run.id,
            status=str(run.status),
            reason=run.status_reason,
            attempt=run.attempt,
            max_attempts=run.max_attempts,
            queue=run.queue,
            concurrency_key=run.concurrency_key,
            priority=run.priority,
            tags=sorted(run.tags),
            metadata=run.metadata,
            parent=run.parent_run_id,
            root=run.root_run_id,
            batch=run.batch_id,
            is_replay=run.is_replay,
            payload=run.payload,
            output=run.output,
            error=run.error.type if run.error else "",
            started_at=run.started_at.timestamp() if run.started_at else 0.0,
            attempts=[attempt.state for attempt in run.attempts],
            checkpoints=[(one.kind, one.status) for one in run.checkpoints],
            children=list(run.child_run_ids),
        )

    async def cancel(self, run_id: str) -> None:
        await _raised(runs.cancel(run_id))

    async def replay(self, run_id: str, *payload: Any) -> str:
        return str((await _raised(runs.replay(run_id, *payload))).id)

    async def reschedule(self, run_id: str, seconds: float) -> None:
        await _raised(runs.reschedule(run_id, seconds))

    async def reset(self, task: str, key: str) -> bool:
        return await idempotency_keys.reset(task, key)

    async def list(self, *, limit: int = 50, **conditions: str) -> builtins.list[builtins.list[str]]:
        pages, at = [], ""
        while True:
            page = await runs.list(limit=limit, page_token=at, **conditions)  # type: ignore[arg-type]
            pages.append([run.id for run in page])
            if not page.next_page_token:
                return pages
            at = page.next_page_token

    async def watch(self, run_id: str) -> AsyncIterator[str]:
        async for run in runs.subscribe(run_id):
            yield str(run.status)

    async def logs(self, run_id: str) -> builtins.list[tuple[str, str, dict[str, Any]]]:
        return [(line.level, line.message, dict(line.fields)) for line in await runs.logs(run_id)]

    async def create_token(self, timeout: float | None, tags: Sequence[str] = (), key: str | None = None) -> SeenToken:
        return _of_sdk(await wait.create_token(timeout=timeout, tags=tags, idempotency_key=key))

    async def complete_token(self, token_id: str, data: Any) -> bool:
        return await _raised(wait.complete_token(token_id, data))

    async def fail_token(self, token_id: str, message: str) -> bool:
        return await _raised(wait.fail_token(token_id, message))

    async def get_token(self, token_id: str) -> SeenToken:
        return _of_sdk(await _raised(wait.retrieve_token(token_id)))

    async def list_tokens(self, *, limit: int = 50, **conditions: str) -> builtins.list[builtins.list[str]]:
        pages, at = [], ""
        while True:
            page = await wait.list_tokens(limit=limit, page_token=at, **conditions)  # type: ignore[arg-type]
            pages.append([token.id for token in page])
            if not page.next_page_token:
                return pages
            at = page.next_page_token

    async def bulk(self, action: str, **conditions: str) -> tuple[int, int]:
        done = await (bulk.cancel if action == "cancel" else bulk.replay)(**conditions)  # type: ignore[arg-type]
        return done.acted, done.skipped

    async def explain(self, run_id: str) -> tuple[str, dict[str, float]]:
        found = await _raised(runs.explain(run_id))
        return found.sentence, {name: getattr(found, name).total_seconds() for name in SPENT}

    async def get_queue(self, name: str) -> SeenQueue:
        return _queue_of_sdk(await _raised(queues.retrieve(name)))

    async def list_queues(self) -> builtins.list[str]:
        return [queue.name for queue in await queues.list()]

    async def pause_queue(self, name: str) -> SeenQueue:
        return _queue_of_sdk(await _raised(queues.pause(name)))

    async def resume_queue(self, name: str) -> SeenQueue:
        return _queue_of_sdk(await _raised(queues.resume(name)))

    async def override_queue(self, name: str, limit: int) -> SeenQueue:
        return _queue_of_sdk(await queues.override(name, concurrency_limit=limit))

    async def clear_override(self, name: str) -> SeenQueue:
        return _queue_of_sdk(await _raised(queues.reset_override(name)))


# --- the SDK's side -----------------------------------------------------------------------------------------------


async def _raised(call: Any) -> Any:
    try:
        return await call
    except HoldfastError as error:
        raise Refused(getattr(error, "reason", type(error).__name__)) from error


def _queue_of_sdk(queue: queues.QueueState) -> SeenQueue:
    limits = (queue.concurrency_limit or 0, queue.total_concurrency_limit or 0)
    return SeenQueue(queue.name, *limits, queue.overridden, queue.paused, queue.queued)


def _of_sdk(token: wait.Token) -> SeenToken:
    error = token.error.message if token.error else ""
    return SeenToken(token.id, token.status, list(token.tags), token.data, error, token.is_cached)


# --- the stubs' side ----------------------------------------------------------------------------------------------


async def _asked(call: Any) -> Any:
    try:
        return await call
    except aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        info = error_details_pb2.ErrorInfo()
        if status is None or error.code() is grpc.StatusCode.UNAVAILABLE or not status.details[0].Unpack(info):
            raise
        raise Refused(info.reason) from error


def _key(text: str, ttl: Any = None) -> IdempotencyKey:
    key = IdempotencyKey(parts=[KeyPart(text=text)])
    if ttl is not None:
        key.ttl.CopyFrom(_duration(ttl))
    return key


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


def _item(ask: Ask) -> TriggerItem:
    item = TriggerItem(task_id=ask.task, payload=Payload(data=json.dumps(ask.payload).encode()))
    given = dict(ask.options)
    ttl = given.pop("idempotency_key_ttl", None)
    if ask.key is not None:
        item.idempotency_key.CopyFrom(_key(ask.key, ttl))
    options = item.options
    for name in ("delay", "ttl", "max_duration", "timeout"):
        if name in given:
            getattr(options, name).CopyFrom(_duration(given.pop(name)))
    if "metadata" in given:
        options.metadata = json.dumps(given.pop("metadata")).encode()
    if "on_parent_end" in given:
        options.on_parent_end = run_pb2.ParentEnd.Value(f"PARENT_END_{given.pop('on_parent_end').upper()}")
    options.tags.extend(given.pop("tags", []))
    for name, value in given.items():
        setattr(options, name, value)
    if ask.debounce is not None:
        rest = dict(ask.debounce)
        for name in ("delay", "max_delay"):
            if name in rest:
                getattr(options.debounce, name).CopyFrom(_duration(rest.pop(name)))
        for name, value in rest.items():
            setattr(options.debounce, name, value)
    return item


def _filter(conditions: dict[str, str]) -> str:
    return " AND ".join(f"{name} = {json.dumps(value)}" for name, value in conditions.items())


def _seen(outcome: run_pb2.TriggerOutcome) -> dict[str, Any]:
    if outcome.HasField("error"):
        return {"error": outcome.error.reason}
    handle = outcome.handle
    return {"run_id": handle.run_id, "is_cached": handle.is_cached, "payload_differs": handle.payload_differs}


def _value(message: Any, field: str) -> Any:
    return json.loads(getattr(message, field).data or b"null") if message.HasField(field) else None


def _seen_run(run: run_pb2.Run) -> SeenRun:
    reason = run_pb2.RunStatusReason.Name(run.status_reason).removeprefix("RUN_STATUS_REASON_")
    return SeenRun(
        id=run.id,
        status=run_pb2.RunStatus.Name(run.status).removeprefix("RUN_STATUS_"),
        reason="" if reason == "UNSPECIFIED" else reason,
        attempt=run.attempt,
        max_attempts=run.max_attempts,
        queue=run.queue,
        concurrency_key=run.concurrency_key,
        priority=run.priority,
        tags=sorted(run.tags),
        metadata=json.loads(run.metadata or b"{}"),
        parent=run.parent_run_id,
        root=run.root_run_id,
        batch=run.batch_id,
        is_replay=run.is_replay,
        payload=_value(run, "payload"),
        output=_value(run, "output"),
        error=run.error.type,
        started_at=run.started_at.ToNanoseconds() / 1e9,
        attempts=[run_pb2.AttemptState.Name(one.state).removeprefix("ATTEMPT_STATE_") for one in run.attempts],
        checkpoints=[
            (
                run_pb2.CheckpointKind.Name(one.kind).removeprefix("CHECKPOINT_KIND_"),
                run_pb2.CheckpointStatus.Name(one.status).removeprefix("CHECKPOINT_STATUS_"),
            )
            for one in run.checkpoints
        ],
        children=list(run.child_run_ids),
    )


def _seen_token(token: token_api.Token, is_cached: bool = False) -> SeenToken:
    status = token_api.TokenStatus.Name(token.status).removeprefix("TOKEN_STATUS_")
    return SeenToken(token.id, status, list(token.tags), _value(token, "data"), token.error.message, is_cached)


def _seen_queue(queue: queue_api.Queue) -> SeenQueue:
    limits = queue.definition
    return SeenQueue(
        limits.name,
        limits.concurrency_limit,
        limits.total_concurrency_limit,
        queue.overridden,
        queue.paused,
        queue.queued,
    )
