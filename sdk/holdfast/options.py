"""The options of a trigger, and the request for one run that they make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast import durations, idempotency_keys, payloads, texts
from holdfast.durations import Duration
from holdfast.errors import InvalidArgumentError, InvalidKeyError, PayloadError
from holdfast.idempotency_keys import IdempotencyKey
from holdfast.queues import Queue
from holdfast.v1 import run_pb2
from holdfast.v1.run_pb2 import TriggerItem

MAX_PRIORITY_SECONDS = 10 * 365 * 86400
MAX_ATTEMPTS = 10_000

ParentEnd = Literal["cancel", "detach"]


@dataclass(frozen=True, slots=True)
class Debounce:
    """Merges triggers that follow each other closely into one run.

    Triggers with the same `key` are merged; the run starts `delay` after the last of them, at the latest `max_delay`
    after the first. `mode` "leading" keeps the first payload, "trailing" takes the last.
    """

    key: str
    delay: Duration
    mode: Literal["leading", "trailing"] = "trailing"
    max_delay: Duration | None = None


class TriggerOptions(TypedDict, total=False):
    """The options of one trigger. What is left out takes the task's definition."""

    idempotency_key: str | IdempotencyKey
    """Within its time to live the key returns the same run."""
    idempotency_key_ttl: Duration
    """How long the key holds; 30 days by default."""
    delay: Duration | datetime
    """Start no earlier than this long from now, or than this instant (with a time zone)."""
    ttl: Duration
    """Expire if not started this long after it was queued."""
    priority: float
    """Seconds by which the run is moved ahead in its queue; negative moves it back."""
    queue: str | Queue
    """Queue to use instead of the task's."""
    concurrency_key: str
    """Splits the queue into one lane per key."""
    tags: str | Sequence[str]
    """Up to 10 tags of at most 128 characters."""
    metadata: Mapping[str, Any]
    """Initial metadata."""
    max_attempts: int
    """Overrides the number of attempts of the task's `Retry`."""
    max_duration: Duration
    """Overrides the task's limit of the executing time of one attempt."""
    timeout: Duration
    """Overrides the task's limit of the wall-clock time of the run."""
    version: str
    """Only workers of this version may execute it, however long none is connected."""
    on_parent_end: ParentEnd
    """What happens to the child when its parent is canceled or fails; "cancel" when the parent waits for it, else
    "detach"."""
    debounce: Debounce
    """Merge with triggers that follow closely."""


class WaitOptions(TriggerOptions, total=False):
    """The options of a trigger whose result the run waits for."""

    wait_timeout: Duration
    """How long the parent waits; then its result is a TIMED_OUT one. It survives crashes, unlike asyncio's."""


class BatchOptions(TypedDict, total=False):
    """The options of a batch as a whole."""

    idempotency_key: str | IdempotencyKey
    idempotency_key_ttl: Duration


class BatchWaitOptions(BatchOptions, total=False):
    """The options of a batch whose results the run waits for."""

    wait_timeout: Duration


def key_of(options: Mapping[str, Any], in_run: bool) -> IdempotencyKey | None:
    """The idempotency key among `options`. Raises: InvalidKeyError."""
    given = options.get("idempotency_key")
    if given is None:
        if options.get("idempotency_key_ttl") is not None:
            raise InvalidKeyError("idempotency_key_ttl is given without an idempotency_key.")
        return None
    key = idempotency_keys.of(given)
    if key.scope in ("run", "attempt") and not in_run:
        raise InvalidKeyError(
            f'idempotency_key: the scope "{key.scope}" needs a run around it; outside one use scope="global".'
        )
    return key


def build_item(
    task_id: str, data: bytes, fingerprint: bytes, options: Mapping[str, Any], key: IdempotencyKey | None
) -> TriggerItem:
    """The request for one run, still without a run id.

    Raises: InvalidArgumentError and those under it; TypeError for an option that does not exist.
    """
    item = TriggerItem(task_id=task_id, payload=payloads.to_payload(data), fingerprint=fingerprint)
    if not options:
        return item
    if key is not None:
        item.idempotency_key.CopyFrom(key.to_message(options.get("idempotency_key_ttl")))
    message = item.options
    for name, value in options.items():
        if value is None or name in _NOT_IN_MESSAGE:
            continue
        fill = _FILL.get(name)
        if fill is None:
            raise TypeError(f"trigger of {task_id!r}: there is no option {name!r}; there are {', '.join(_NAMES)}.")
        fill(message, value)
    return item


def instant(value: datetime, name: str) -> Timestamp:
    """An instant as a message. Raises: InvalidArgumentError for a datetime without a time zone."""
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidArgumentError(
            f"{name}: {value!r} has no time zone, so it names no instant. Use datetime.now(UTC) or .astimezone()."
        )
    message = Timestamp()
    message.FromDatetime(value)
    return message


def _delay(message: run_pb2.TriggerOptions, value: Any) -> None:
    if isinstance(value, datetime):
        message.delay_until.CopyFrom(instant(value, "delay"))
    else:
        message.delay.CopyFrom(durations.to_message(value, "delay"))


def _ttl(message: run_pb2.TriggerOptions, value: Any) -> None:
    message.ttl.CopyFrom(durations.to_message(value, "ttl"))


def _priority(message: run_pb2.TriggerOptions, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgumentError(f"priority: {value!r} is not a finite number of seconds.")
    if abs(value) > MAX_PRIORITY_SECONDS:
        raise InvalidArgumentError(f"priority: {value!r} is more than the limit of {MAX_PRIORITY_SECONDS:,} s.")
    message.priority = value


def _queue(message: run_pb2.TriggerOptions, value: Any) -> None:
    message.queue = texts.check(value.name if isinstance(value, Queue) else value, "queue")


def _concurrency_key(message: run_pb2.TriggerOptions, value: Any) -> None:
    message.concurrency_key = texts.check(value, "concurrency_key")


def _tags(message: run_pb2.TriggerOptions, value: Any) -> None:
    message.tags.extend(texts.check_tags(value))


def _metadata(message: run_pb2.TriggerOptions, value: Any) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise PayloadError(f"metadata: {value!r} is not a mapping from text to values.")
    message.metadata = payloads.encode_any(dict(value), "metadata", "metadata", payloads.MAX_METADATA_BYTES)


def _max_attempts(message: run_pb2.TriggerOptions, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_ATTEMPTS:
        raise InvalidArgumentError(f"max_attempts: {value!r} is not between 1 and {MAX_ATTEMPTS:,}.")
    message.max_attempts = value


def _max_duration(message: run_pb2.TriggerOptions, value: Any) -> None:
    message.max_duration.CopyFrom(durations.to_message(value, "max_duration"))


def _timeout(message: run_pb2.TriggerOptions, value: Any) -> None:
    message.timeout.CopyFrom(durations.to_message(value, "timeout"))


def _version(message: run_pb2.TriggerOptions, value: Any) -> None:
    message.version = texts.check(value, "version")


def _on_parent_end(message: run_pb2.TriggerOptions, value: Any) -> None:
    try:
        message.on_parent_end = _PARENT_ENDS[value]
    except KeyError:
        raise InvalidArgumentError(f'on_parent_end: {value!r} is neither "cancel" nor "detach".') from None


def _debounce(message: run_pb2.TriggerOptions, value: Any) -> None:
    if not isinstance(value, Debounce):
        raise InvalidArgumentError(f"debounce: {value!r} is not a Debounce(key, delay, ...).")
    if value.mode not in ("leading", "trailing"):
        raise InvalidArgumentError(f'debounce: mode {value.mode!r} is neither "leading" nor "trailing".')
    message.debounce.key = texts.check(value.key, "debounce: key")
    message.debounce.mode = value.mode
    message.debounce.delay.CopyFrom(durations.to_message(value.delay, "debounce: delay"))
    if value.max_delay is not None:
        message.debounce.max_delay.CopyFrom(durations.to_message(value.max_delay, "debounce: max_delay"))


_PARENT_ENDS = {"cancel": run_pb2.PARENT_END_CANCEL, "detach": run_pb2.PARENT_END_DETACH}
_NOT_IN_MESSAGE = frozenset({"idempotency_key", "idempotency_key_ttl", "wait_timeout"})
_FILL = {
    "delay": _delay,
    "ttl": _ttl,
    "priority": _priority,
    "queue": _queue,
    "concurrency_key": _concurrency_key,
    "tags": _tags,
    "metadata": _metadata,
    "max_attempts": _max_attempts,
    "max_duration": _max_duration,
    "timeout": _timeout,
    "version": _version,
    "on_parent_end": _on_parent_end,
    "debounce": _debounce,
}
_NAMES = sorted([*_FILL, "idempotency_key", "idempotency_key_ttl"])
