"""Batches: up to 1,000 runs in one commit, of one task or of several.

handle = await batch.trigger([export.item(page, tags="night"), send.item(mail, idempotency_key=key)])
results = await handle.results()
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, Unpack, cast

from holdfast import _calls, client, failures, idempotency_keys, ids, options, rpc_errors, triggering
from holdfast._scope import DurableCall, RunScope
from holdfast.client import Client
from holdfast.errors import HoldfastError, InvalidArgumentError, PayloadError, TooLargeError
from holdfast.handles import BatchHandle, BatchResult, RunHandle, RunResult, result_of
from holdfast.idempotency_keys import IdempotencyKey
from holdfast.options import BatchOptions, BatchWaitOptions
from holdfast.triggering import Remote, Target
from holdfast.v1 import payload_pb2, run_pb2
from holdfast.v1.run_pb2 import BatchEntry, Checkpoint, TriggerItem
from holdfast.v1.run_pb2 import RunHandle as RunHandleMessage
from holdfast.v1.run_service_pb2 import BatchTriggerRequest, BatchTriggerResponse
from holdfast.v1.worker_service_pb2 import BatchRecord, CheckpointRecord

R = TypeVar("R")

MAX_ITEMS = 1000
MAX_BYTES = 16 * 1024 * 1024
MAX_FRAME_BYTES = 4 * 1024 * 1024
_SURROUNDINGS = 64 * 1024
"""Bytes of a frame that are kept for what is not the batch."""

_UNKNOWN: Target[Any] = Remote("")
_log = logging.getLogger("holdfast")


@dataclass(frozen=True, slots=True)
class Item(Generic[R]):
    """One item of a batch; make it with `my_task.item(payload, ...)` or `tasks.item("id", payload, ...)`."""

    target: Target[R]
    payload: Any
    options: Mapping[str, Any]


def trigger(items: Iterable[Item[R]], **given: Unpack[BatchOptions]) -> Coroutine[Any, Any, BatchHandle[R]]:
    """Make one batch of runs, of one task or of several, in one commit.

    `idempotency_key` and `idempotency_key_ttl` are of the batch as a whole. An item that cannot be a run stands in its
    place as its error.

    Raises: InvalidPayloadError, TooLargeError, InvalidKeyError, InvalidArgumentError, SchedulerUnavailableError.
    """
    return trigger_items(list(items), given, "batch.trigger()")


def trigger_and_wait(
    items: Iterable[Item[R]], **given: Unpack[BatchWaitOptions]
) -> Coroutine[Any, Any, BatchResult[R]]:
    """Make one batch of children and wait until all have ended. Results come in input order.

    Raises: as `trigger`, with TooLargeError also when the results have more than 32 MiB together; NotInRunError.
    """
    return trigger_items_and_wait(list(items), given, "batch.trigger_and_wait()")


def trigger_items(items: Sequence[Item[R]], given: Mapping[str, Any], call: str) -> Coroutine[Any, Any, BatchHandle[R]]:
    """As `trigger`; `call` is what errors call it."""
    scope = _calls.scope_of(call)
    messages, key = _prepare(items, given, scope is not None)
    batch_id = ids.new_batch_id()
    if scope is None:
        request = BatchTriggerRequest(batch_id=batch_id, items=messages)
        if key is not None:
            request.idempotency_key.CopyFrom(key.to_message(given.get("idempotency_key_ttl")))
        return _request(items, request, client.current())
    return _calls.ask(
        scope,
        _batch_call(scope, batch_id, messages, key, given, wait=False),
        lambda checkpoint: _handle_of_checkpoint(items, messages, batch_id, checkpoint),
    )


def trigger_items_and_wait(
    items: Sequence[Item[R]], given: Mapping[str, Any], call: str
) -> Coroutine[Any, Any, BatchResult[R]]:
    """As `trigger_and_wait`; `call` is what errors call it."""
    scope = _calls.require_scope(call, "Outside use `handle = await batch.trigger(...)` and `await handle.results()`.")
    messages, key = _prepare(items, given, True)
    batch_id = ids.new_batch_id()
    return _calls.ask(
        scope,
        _batch_call(scope, batch_id, messages, key, given, wait=True),
        lambda checkpoint: _results_of_checkpoint(items, messages, batch_id, checkpoint),
    )


def _prepare(
    items: Sequence[Item[Any]], given: Mapping[str, Any], in_run: bool
) -> tuple[list[TriggerItem], IdempotencyKey | None]:
    if not 1 <= len(items) <= MAX_ITEMS:
        raise InvalidArgumentError(
            f"batch: {len(items):,} items; a batch has 1 to {MAX_ITEMS:,}. Trigger several batches."
        )
    unknown = set(given) - BatchWaitOptions.__optional_keys__
    if unknown:
        raise TypeError(f"batch: there is no option {min(unknown)!r}; options of a run belong to its item.")
    key = options.key_of(given, in_run)
    messages, size = [], 0
    for place, item in enumerate(items):
        if not isinstance(item, Item):
            raise TypeError(f"batch: item {place} is {item!r}; write my_task.item(payload, ...).")
        try:
            message, _key = triggering.prepare(item.target, item.payload, item.options, in_run)
        except (PayloadError, InvalidArgumentError) as error:
            error.args = (f"batch: item {place}: {error}",)
            raise
        message.run_id = ids.new_run_id()
        size += message.ByteSize()
        messages.append(message)
    if size > MAX_BYTES:
        raise TooLargeError(
            f"batch: {size:,} bytes are more than the batch limit of {MAX_BYTES:,}. Trigger several batches.",
            limit="batch",
            size=size,
            maximum=MAX_BYTES,
        )
    return messages, key


def _batch_call(
    scope: RunScope,
    batch_id: str,
    messages: Sequence[TriggerItem],
    key: IdempotencyKey | None,
    given: Mapping[str, Any],
    wait: bool,
) -> DurableCall:
    record = CheckpointRecord(
        name=_name_of(messages),
        fingerprint=b"" if key else _fingerprint(messages),
        timeout=_calls.timeout_of(given.get("wait_timeout"), "wait_timeout"),
        batch=BatchRecord(batch_id=batch_id, items=messages, wait=wait),
    )
    if key is not None:
        record.batch.idempotency_key.CopyFrom(key.to_message(given.get("idempotency_key_ttl")))
    size, most = record.ByteSize(), (scope.limits.frame_bytes or MAX_FRAME_BYTES) - _SURROUNDINGS
    if size > most:
        raise TooLargeError(
            f"batch: {size:,} bytes are more than the limit of {most:,} of a batch inside a run, which is one "
            "checkpoint. Trigger several batches.",
            limit="batch in a run",
            size=size,
            maximum=most,
        )
    return DurableCall(
        kind=run_pb2.CHECKPOINT_KIND_BATCH if wait else run_pb2.CHECKPOINT_KIND_BATCH_TRIGGER,
        record=record,
        key=idempotency_keys.encode_call("batch", "", key, scope) if key else None,
    )


def _name_of(messages: Sequence[TriggerItem]) -> str:
    tasks = {message.task_id for message in messages}
    return tasks.pop() if len(tasks) == 1 else "batch"


def _fingerprint(messages: Sequence[TriggerItem]) -> bytes:
    """An item's key belongs to what is asked for: the same payload under another key is another run."""
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        digest.update(message.fingerprint)
        parts = message.idempotency_key.SerializeToString(deterministic=True)
        digest.update(len(parts).to_bytes(4, "big") + parts)
    return digest.digest()


async def _request(items: Sequence[Item[R]], request: BatchTriggerRequest, asked: Client) -> BatchHandle[R]:
    request.namespace = asked.settings.namespace
    response: BatchTriggerResponse = await asked.call(lambda endpoint: endpoint.runs.BatchTrigger, request)
    outcomes: list[RunHandle[R] | HoldfastError] = []
    for target, outcome in zip(_targets(items, len(response.outcomes)), response.outcomes, strict=True):
        if outcome.HasField("error"):
            outcomes.append(rpc_errors.of_item(outcome.error))
        else:
            outcomes.append(_handle(target, outcome.handle, asked))
    _warn_if_items_differ(response.batch_id, response.payload_differs)
    return BatchHandle(response.batch_id, response.is_cached, outcomes, response.payload_differs)


def _handle(target: Target[R], found: RunHandleMessage | BatchEntry, asked: Client | None) -> RunHandle[R]:
    triggering.warn_if_payload_differs(target.id, found.run_id, found.payload_differs)
    return RunHandle(
        found.run_id,
        target.id,
        target.output_codec,
        is_cached=found.is_cached,
        payload_differs=found.payload_differs,
        client=asked,
    )


def _targets(items: Sequence[Item[R]], count: int) -> list[Target[R]]:
    """What the runs of a batch are decoded by. A batch that a key named may have more or fewer items than were asked
    for; of those that have no counterpart any JSON is taken."""
    targets = [item.target for item in items[:count]]
    return targets + [_UNKNOWN] * (count - len(targets))


def _warn_if_items_differ(batch_id: str, differs: bool) -> None:
    if differs:
        _log.warning("The idempotency key returned batch %s, which was triggered with other items.", batch_id)


def _entries(messages: Sequence[TriggerItem], checkpoint: Checkpoint) -> Sequence[BatchEntry]:
    """What the checkpoint says of each item; one that was settled by its commit alone made every run as asked."""
    if not checkpoint.batch_entries:
        return [BatchEntry(run_id=message.run_id) for message in messages]
    if checkpoint.is_cached:
        for entry in checkpoint.batch_entries:
            entry.is_cached = bool(entry.run_id)
    return checkpoint.batch_entries


def _handle_of_checkpoint(
    items: Sequence[Item[R]], messages: Sequence[TriggerItem], batch_id: str, checkpoint: Checkpoint
) -> BatchHandle[R]:
    _calls.check_triggered(checkpoint)
    outcomes: list[RunHandle[R] | HoldfastError] = []
    entries = _entries(messages, checkpoint)
    for target, entry in zip(_targets(items, len(entries)), entries, strict=True):
        if entry.run_id:
            outcomes.append(_handle(target, entry, None))
        else:
            outcomes.append(rpc_errors.of_checkpoint(failures.to_info(entry.error)))
    found = checkpoint.subject_id or batch_id
    _warn_if_items_differ(found, checkpoint.payload_differs)
    return BatchHandle(found, checkpoint.is_cached, outcomes, checkpoint.payload_differs)


def _results_of_checkpoint(
    items: Sequence[Item[R]], messages: Sequence[TriggerItem], batch_id: str, checkpoint: Checkpoint
) -> BatchResult[R]:
    _calls.check_triggered(checkpoint)
    if checkpoint.error.kind == payload_pb2.TASK_ERROR_KIND_LIMIT_EXCEEDED:
        raise rpc_errors.of_checkpoint(failures.to_info(checkpoint.error))
    timed_out = not checkpoint.batch_entries  # settled without entries: the wait met its own time limit
    results: list[RunResult[R]] = []
    entries = _entries(messages, checkpoint)
    for target, entry in zip(_targets(items, len(entries)), entries, strict=True):
        triggering.warn_if_payload_differs(target.id, entry.run_id, entry.payload_differs)
        final = entry.status >= run_pb2.RUN_STATUS_COMPLETED
        status = entry.status if final else run_pb2.RUN_STATUS_TIMED_OUT
        error = checkpoint.error if timed_out or not final else entry.error
        codec = cast(Any, target.output_codec)
        results.append(
            result_of(entry.run_id, status, entry.output, error, codec, entry.is_cached, entry.payload_differs)
        )
    found = checkpoint.subject_id or batch_id
    _warn_if_items_differ(found, checkpoint.payload_differs)
    return BatchResult(found, checkpoint.is_cached, results, checkpoint.payload_differs)
