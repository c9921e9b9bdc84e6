"""One trigger: durable inside a run, a request outside."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from holdfast import _calls, client, idempotency_keys, ids, options, payloads
from holdfast._scope import DurableCall, RunScope
from holdfast.client import Client
from holdfast.errors import InvalidPayloadError, PayloadError, TooLargeError
from holdfast.handles import RunHandle, RunResult, result_of
from holdfast.idempotency_keys import IdempotencyKey
from holdfast.payloads import Codec
from holdfast.v1 import run_pb2
from holdfast.v1.payload_pb2 import TASK_ERROR_KIND_TIMED_OUT
from holdfast.v1.run_pb2 import Checkpoint, TriggerItem
from holdfast.v1.worker_service_pb2 import CheckpointRecord, ChildRecord

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_log = logging.getLogger("holdfast")


class Target(Protocol[R_co]):
    """What can be triggered: a task, or the id of one whose code is elsewhere."""

    @property
    def id(self) -> str:
        """Id of the task."""
        ...

    @property
    def payload_codec(self) -> Codec[Any]:
        """Encodes its payload."""
        ...

    @property
    def output_codec(self) -> Codec[Any]:
        """Decodes its output."""
        ...

    def payload_or_default(self, payload: Any) -> Any:
        """`payload`, or what stands for one that was left out."""
        ...


@dataclass(frozen=True, slots=True)
class Remote:
    """A task whose code is elsewhere: any JSON goes in and comes out, the worker checks it."""

    id: str

    @property
    def payload_codec(self) -> Codec[Any]:
        """Any JSON."""
        return payloads.anything

    @property
    def output_codec(self) -> Codec[Any]:
        """Any JSON."""
        return payloads.anything

    def payload_or_default(self, payload: Any) -> Any:
        """The payload as it is: the defaults are in the task's code."""
        return payload


class _Missing:
    def __repr__(self) -> str:
        return "<no payload>"


MISSING: Any = _Missing()
"""Stands for a payload that was left out."""


def trigger(target: Target[R], payload: Any, given: Mapping[str, Any]) -> Coroutine[Any, Any, RunHandle[R]]:
    """Make a run of `target`."""
    scope = _calls.scope_of(f"{target.id}.trigger()")
    item, key = prepare(target, payload, given, scope is not None)
    item.run_id = ids.new_run_id()
    if scope is None:
        return _request(target, item, client.current())
    return _calls.ask(
        scope,
        child_call(scope, item, key, wait=False, timeout=None),
        lambda checkpoint: _handle_of_checkpoint(target, item.run_id, checkpoint),
    )


def trigger_and_wait(target: Target[R], payload: Any, given: Mapping[str, Any]) -> Coroutine[Any, Any, RunResult[R]]:
    """Make a run of `target` as a child and wait for its end."""
    scope = _calls.require_scope(
        f"{target.id}.trigger_and_wait()", "Outside use `handle = await task.trigger(...)` and `await handle.result()`."
    )
    item, key = prepare(target, payload, given, True)
    item.run_id = ids.new_run_id()
    return _calls.ask(
        scope,
        child_call(scope, item, key, wait=True, timeout=given.get("wait_timeout")),
        lambda checkpoint: _result_of_checkpoint(target, item.run_id, checkpoint),
    )


def prepare(
    target: Target[Any], payload: Any, given: Mapping[str, Any], in_run: bool
) -> tuple[TriggerItem, IdempotencyKey | None]:
    """The request for one run, still without a run id, and its key.

    Raises: InvalidPayloadError, TooLargeError, InvalidKeyError, InvalidArgumentError; TypeError.
    """
    data = _encode(target, target.payload_or_default(payload))
    key = options.key_of(given, in_run) if given else None
    return options.build_item(target.id, data, payloads.fingerprint(target.id, data), given, key), key


def child_call(scope: RunScope, item: TriggerItem, key: IdempotencyKey | None, wait: bool, timeout: Any) -> DurableCall:
    """The durable call that makes one child."""
    return DurableCall(
        kind=run_pb2.CHECKPOINT_KIND_CHILD if wait else run_pb2.CHECKPOINT_KIND_TRIGGER,
        record=CheckpointRecord(
            name=item.task_id,
            fingerprint=b"" if key else item.fingerprint,
            timeout=_calls.timeout_of(timeout, "wait_timeout"),
            child=ChildRecord(item=item, wait=wait),
        ),
        key=idempotency_keys.encode_call("task", item.task_id, key, scope) if key else None,
    )


def warn_if_payload_differs(task_id: str, run_id: str, differs: bool) -> None:
    """A key that returns a run with another payload is usually a mistake in the key."""
    if differs:
        _log.warning(
            "The idempotency key returned run %s of task %r, which was triggered with another payload.", run_id, task_id
        )


def _encode(target: Target[Any], payload: Any) -> bytes:
    try:
        return target.payload_codec.encode(payload)
    except TooLargeError:
        raise
    except PayloadError as error:
        raise InvalidPayloadError(str(error)) from error.__cause__


async def _request(target: Target[R], item: TriggerItem, asked: Client) -> RunHandle[R]:
    handle = await asked.trigger(item)
    warn_if_payload_differs(target.id, handle.run_id, handle.payload_differs)
    return RunHandle(
        handle.run_id,
        target.id,
        target.output_codec,
        is_cached=handle.is_cached,
        payload_differs=handle.payload_differs,
        client=asked,
    )


def _handle_of_checkpoint(target: Target[R], run_id: str, checkpoint: Checkpoint) -> RunHandle[R]:
    _calls.check_triggered(checkpoint)
    found = checkpoint.subject_id or run_id
    warn_if_payload_differs(target.id, found, checkpoint.payload_differs)
    return RunHandle(
        found,
        target.id,
        target.output_codec,
        is_cached=checkpoint.is_cached,
        payload_differs=checkpoint.payload_differs,
    )


def _result_of_checkpoint(target: Target[R], run_id: str, checkpoint: Checkpoint) -> RunResult[R]:
    _calls.check_triggered(checkpoint)
    found = checkpoint.subject_id or run_id
    warn_if_payload_differs(target.id, found, checkpoint.payload_differs)
    return result_of(
        found,
        child_status(checkpoint),
        checkpoint.value,
        checkpoint.error,
        target.output_codec,
        checkpoint.is_cached,
        checkpoint.payload_differs,
    )


def child_status(checkpoint: Checkpoint) -> int:
    """The child's final status; a wait that met its own time limit counts as TIMED_OUT, whatever the child does."""
    if checkpoint.status == run_pb2.CHECKPOINT_STATUS_SUCCEEDED:
        return run_pb2.RUN_STATUS_COMPLETED
    if checkpoint.child_status >= run_pb2.RUN_STATUS_COMPLETED:
        return checkpoint.child_status
    timed_out = checkpoint.error.kind == TASK_ERROR_KIND_TIMED_OUT
    return run_pb2.RUN_STATUS_TIMED_OUT if timed_out else run_pb2.RUN_STATUS_FAILED
