"""From the contract to the model: every text, size and number that a client or worker sends is checked here.

`new_run` is on the hot path: a plain item must cost a few microseconds, so it reads each field once and asks
`HasField` only where a message that is not set means something else than an empty one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.v1.payload_pb2 import Payload, TaskError
from holdfast.v1.run_pb2 import Debounce as DebounceMessage
from holdfast.v1.run_pb2 import IdempotencyKey, ItemError, RunHandle, TriggerItem, TriggerOptions
from holdfast.v1.run_service_pb2 import BatchTriggerResponse, StreamTriggersResponse, TriggerResponse
from holdfast.v1.task_pb2 import QueueDefinition
from holdfast_scheduler import ids
from holdfast_scheduler.definitions import queue_limits as limits_of
from holdfast_scheduler.errors import INVALID_ARGUMENT, RefusedError, invalid, shown, too_large
from holdfast_scheduler.model import (
    SCOPE_ATTEMPT,
    SCOPE_GLOBAL,
    SCOPE_RUN,
    Debounce,
    Handle,
    ItemFault,
    KeyUse,
    NewRun,
    QueueLimits,
)
from holdfast_scheduler.settings import MICROSECONDS, Limits

DEFAULT_NAMESPACE: Final = "default"
_PAYLOAD_FRAME = 4096  # bytes that content type, codec and meta of a payload may take beside its data
_PARENT_ENDS = (0, 1, 2)
_FINGERPRINT_BYTES = 16
_LATEST_US = 253_402_300_800 * MICROSECONDS  # the end of the year 9999


def new_run(item: TriggerItem, *, limits: Limits, in_run: bool = False) -> NewRun:
    """The run that `item` asks for. A malformed item gives a NewRun with `error`; it never raises.

    `in_run` says whether a run triggers it: only then may its key have the scope RUN or ATTEMPT.
    """
    try:
        return _new_run(item, limits, in_run)
    except RefusedError as refused:
        return NewRun(ids.new_id(), "", b"", b"", id_chosen=False, error=refused.fault)


def _new_run(item: TriggerItem, limits: Limits, in_run: bool) -> NewRun:
    id_text = item.run_id
    run_id = id_from("run_id", ids.RUN, id_text) if id_text else ids.new_id()
    task = item.task_id
    if not task:
        raise invalid("task_id", "is empty; name the task to run")
    check_text("task_id", task, limits)
    payload = item.payload.SerializeToString()
    if len(payload) > limits.payload_bytes:
        check_payload("payload", item.payload, limits.payload_bytes, "payload_bytes")
    fingerprint = item.fingerprint
    if not fingerprint:
        fingerprint = hashlib.blake2b(
            task.encode() + b"\0" + item.payload.data, digest_size=_FINGERPRINT_BYTES
        ).digest()
    elif len(fingerprint) > limits.fingerprint_bytes:
        raise too_large("fingerprint", "fingerprint_bytes", len(fingerprint), limits.fingerprint_bytes)
    run = NewRun(run_id, task, payload, fingerprint, id_text != "")
    if item.HasField("idempotency_key"):
        run.key = key_use(item.idempotency_key, limits=limits, in_run=in_run)
    if item.trace_context:
        run.trace = _trace(item.trace_context, limits)
    if item.HasField("options"):
        _apply_options(run, item.options, limits)
    return run


def _apply_options(run: NewRun, options: TriggerOptions, limits: Limits) -> None:
    run.options = options.SerializeToString()
    if not run.options:
        return
    if options.HasField("delay"):
        run.delay_us = duration_us("options.delay", options.delay, limits)
    if options.HasField("delay_until"):
        if options.HasField("delay"):
            raise invalid("options.delay_until", "excludes options.delay; give one of them")
        run.start_at = instant_us("options.delay_until", options.delay_until)
    if options.HasField("ttl"):
        run.ttl_us = duration_us("options.ttl", options.ttl, limits, least=1)
    if options.HasField("timeout"):
        run.timeout_us = duration_us("options.timeout", options.timeout, limits, least=1)
    if options.HasField("max_duration"):
        duration_us("options.max_duration", options.max_duration, limits, least=1)  # read from `options` at each start
    if options.HasField("debounce"):
        run.debounce = _debounce(options.debounce, limits)
        if run.delay_us or run.start_at is not None:
            raise invalid("options.debounce", "excludes options.delay and options.delay_until: it is a delay itself")
    priority = options.priority
    if priority:
        if not -limits.priority_s <= priority <= limits.priority_s:  # also refuses NaN
            raise invalid(
                "options.priority", f"{priority} s is not between ±{limits.priority_s:g} s", limit="priority_s"
            )
        run.priority_us = round(priority * MICROSECONDS)
    run.queue = check_text("options.queue", options.queue, limits)
    run.lane = check_text("options.concurrency_key", options.concurrency_key, limits)
    run.version = check_text("options.version", options.version, limits)
    if options.tags:
        run.tags = checked_tags("options.tags", options.tags, limits)
    if options.metadata:
        run.metadata = _json_object("options.metadata", options.metadata, limits)
    run.max_attempts = options.max_attempts
    if run.max_attempts > limits.max_attempts:
        raise invalid(
            "options.max_attempts",
            f"{run.max_attempts} is more than the limit max_attempts of {limits.max_attempts}",
            limit="max_attempts",
        )
    run.on_parent_end = options.on_parent_end
    if run.on_parent_end not in _PARENT_ENDS:
        raise invalid("options.on_parent_end", f"{run.on_parent_end} is not a ParentEnd")


def _debounce(message: DebounceMessage, limits: Limits) -> Debounce:
    if not message.key:
        raise invalid("options.debounce.key", "is empty; triggers with one key are merged")
    if message.mode not in ("", "leading", "trailing"):
        raise invalid("options.debounce.mode", f"{shown(message.mode)} is neither 'leading' nor 'trailing'")
    most = None
    if message.HasField("max_delay"):
        most = duration_us("options.debounce.max_delay", message.max_delay, limits, least=1)
    return Debounce(
        key=check_text("options.debounce.key", message.key, limits),
        delay_us=duration_us("options.debounce.delay", message.delay, limits, least=1),
        leading=message.mode == "leading",
        max_us=most,
    )


# --- keys -----------------------------------------------------------------------------------------------------------
def key_use(message: IdempotencyKey, *, limits: Limits, in_run: bool = False, field: str = "idempotency_key") -> KeyUse:
    """The use of an idempotency key.

    Raises: RefusedError when it has no parts, is too large, or its scope does not fit the place.
    """
    scope = message.scope
    if scope not in (0, SCOPE_RUN, SCOPE_GLOBAL, SCOPE_ATTEMPT):
        raise _bad_key(field, f"{scope} is not a KeyScope")
    if not in_run and scope in (SCOPE_RUN, SCOPE_ATTEMPT):
        raise _bad_key(field, "the scopes RUN and ATTEMPT mean something only inside a run; use GLOBAL here")
    ttl_us = limits.key_ttl_us
    if message.HasField("ttl"):
        ttl_us = duration_us(f"{field}.ttl", message.ttl, limits, least=1)
    parts = key_parts(message, limits=limits, field=field)
    return KeyUse(parts, scope, ttl_us, message.SerializeToString())


def key_parts(message: IdempotencyKey, *, limits: Limits, field: str = "idempotency_key") -> bytes:
    """The parts of a key as bytes that differ whenever the parts do: ["a","b"] from ["a-b"], [1] from ["1"] or [true].

    This is what gets hashed: changing it would make every key in every database a different one.
    """
    count = len(message.parts)
    if not count:
        raise _bad_key(field, "has no parts; give at least one text, integer or boolean")
    if count > limits.key_parts:
        raise too_large(f"{field}.parts", "key_parts", count, limits.key_parts, "parts")
    pieces = []
    for part in message.parts:
        kind = part.WhichOneof("part")
        if kind == "text":
            text = part.text.encode()
            pieces.append(b"t%d:%s" % (len(text), text))
        elif kind == "number":
            pieces.append(b"n%d;" % part.number)
        elif kind == "flag":
            pieces.append(b"b1" if part.flag else b"b0")
        else:
            raise _bad_key(field, "has a part that is neither a text, an integer nor a boolean")
    encoded = b"".join(pieces)
    if len(encoded) > limits.key_bytes:
        raise too_large(field, "key_bytes", len(encoded), limits.key_bytes)
    return encoded


def _bad_key(field: str, message: str) -> RefusedError:
    return RefusedError(ItemFault(INVALID_ARGUMENT, "INVALID_KEY", f"{field}: {message}", {"field": field}))


# --- checks ---------------------------------------------------------------------------------------------------------
def namespace_from(text: str, limits: Limits) -> str:
    """The namespace of a request; empty means "default"."""
    return check_text("namespace", text, limits) if text else DEFAULT_NAMESPACE


def id_from(field: str, prefix: str, text: str) -> bytes:
    """The 16 bytes of an id.

    Raises: RefusedError naming the field.
    """
    try:
        return ids.from_text(prefix, text)
    except ValueError as error:
        raise invalid(field, str(error)) from None


def check_text(field: str, text: str, limits: Limits) -> str:
    """`text`, if both databases can store it: PostgreSQL has no U+0000 in texts.

    Raises: RefusedError.
    """
    if len(text) > limits.name_length:
        raise too_large(field, "name_length", len(text), limits.name_length, "characters")
    if "\0" in text:
        raise invalid(field, f"{shown(text)} contains the character U+0000, which cannot be stored")
    return text


def checked_tags(field: str, tags: Iterable[str], limits: Limits) -> list[str]:
    """The tags, each once, in the order given.

    Raises: RefusedError when one is empty, too long or not storable, or there are too many.
    """
    kept = list(dict.fromkeys(tags))
    if len(kept) > limits.tags:
        raise too_large(field, "tags", len(kept), limits.tags, "tags")
    for tag in kept:
        if not tag:
            raise invalid(field, "has an empty tag")
        if len(tag) > limits.tag_length:
            raise too_large(field, "tag_length", len(tag), limits.tag_length, "characters")
        if "\0" in tag:
            raise invalid(field, f"{shown(tag)} contains the character U+0000, which cannot be stored")
    return kept


def check_payload(field: str, payload: Payload, most: int, limit: str) -> None:
    """Refuse a payload whose data is above the limit, or whose surroundings are absurd.

    Raises: RefusedError naming the field and the limit.
    """
    size = len(payload.data)
    around = payload.ByteSize() - size
    if size > most:
        raise too_large(field, limit, size, most)
    if around > _PAYLOAD_FRAME:
        raise too_large(f"{field}.meta", "payload_frame", around, _PAYLOAD_FRAME)


def payload_bytes(field: str, payload: Payload, most: int, limit: str) -> bytes:
    """A checked payload, serialized."""
    serialized = payload.SerializeToString()
    if len(serialized) > most:
        check_payload(field, payload, most, limit)
    return serialized


def task_error_bytes(field: str, error: TaskError, limits: Limits) -> bytes:
    """A checked error, serialized."""
    serialized = error.SerializeToString()
    if len(serialized) > limits.error_bytes:
        raise too_large(field, "error_bytes", len(serialized), limits.error_bytes)
    return serialized


def duration_us(field: str, duration: Duration, limits: Limits, *, least: int = 0) -> int:
    """A duration in microseconds.

    Raises: RefusedError when it is below `least` or above the limit `duration_us`.
    """
    micros = duration.seconds * MICROSECONDS + duration.nanos // 1000
    if micros < least:
        raise invalid(
            field, f"{micros / MICROSECONDS:g} s is too short; it must be {'0 s' if not least else '1 µs'} or more"
        )
    if micros > limits.duration_us:
        raise invalid(
            field, f"{duration.seconds} s is more than the limit duration_us of 100 years", limit="duration_us"
        )
    return micros


def instant_us(field: str, instant: Timestamp) -> int:
    """An instant in microseconds since the Unix epoch.

    Raises: RefusedError outside the years 1970 to 9999.
    """
    micros = instant.seconds * MICROSECONDS + instant.nanos // 1000
    if not 0 <= micros < _LATEST_US:
        raise invalid(field, f"{instant.seconds} s since the epoch is not within the years 1970 to 9999")
    return micros


def queue_limits(field: str, definition: QueueDefinition, limits: Limits) -> QueueLimits:
    """The limits of a queue.

    Raises: RefusedError when one is above the limit `queue_limit`, or a rate has no period or a period no rate.
    """
    for name in ("concurrency_limit", "total_concurrency_limit", "rate_limit", "depth_limit"):
        value = getattr(definition, name)
        if value > limits.queue_limit:
            most = f"the limit queue_limit of {limits.queue_limit:,}"
            raise invalid(f"{field}.{name}", f"{value:,} is more than {most}; 0 means none")
    if definition.HasField("rate_period") != bool(definition.rate_limit):
        raise invalid(f"{field}.rate_limit", "goes together with rate_period: give both or neither")
    if definition.rate_limit:
        duration_us(f"{field}.rate_period", definition.rate_period, limits, least=1)
    return limits_of(definition)


def page_size_from(size: int, default: int, limits: Limits) -> int:
    """How many entries a page may have: 0 means `default`, more than the limit means the limit (AIP-158).

    Raises: RefusedError when it is negative.
    """
    if size < 0:
        raise invalid("page_size", f"{size} is negative; 0 means {default}")
    return min(size or default, limits.page_size)


def _json_object(field: str, data: bytes, limits: Limits) -> bytes:
    if len(data) > limits.metadata_bytes:
        raise too_large(field, "metadata_bytes", len(data), limits.metadata_bytes)
    try:
        document = json.loads(data.decode(), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(field, f"is not JSON in UTF-8: {error}") from None
    if not isinstance(document, dict):
        raise invalid(field, f"is a JSON {type(document).__name__}; it must be an object")
    return data


def refuse_constant(name: str) -> Any:
    """For `parse_constant`: NaN and the infinities are not JSON. Raises: ValueError."""
    raise ValueError(f"{name} is not JSON")


# --- trace context: stored as JSON ------------------------------------------------------------------------------------
def _trace(context: Mapping[str, str], limits: Limits) -> bytes:
    data = json.dumps(dict(context), separators=(",", ":")).encode()
    if len(data) > limits.trace_bytes:
        raise too_large("trace_context", "trace_bytes", len(data), limits.trace_bytes)
    return data


def trace_map(trace: bytes | None) -> dict[str, str]:
    """The W3C trace context stored in `NewRun.trace`."""
    return json.loads(trace) if trace else {}


# --- outcomes -------------------------------------------------------------------------------------------------------
_Response = TriggerResponse | BatchTriggerResponse | StreamTriggersResponse


def add_outcomes(response: _Response, answers: Iterable[Handle | ItemFault]) -> None:
    """Add the answers to items. They are made where they belong: one that is made apart and copied costs four times as
    much."""
    for answer in answers:
        outcome = response.outcomes.add()
        if isinstance(answer, Handle):
            _tell(outcome.handle, answer)
        else:
            outcome.error.CopyFrom(item_error(answer))


def answers_of(runs: Iterable[NewRun], answers: Iterable[Handle | ItemFault]) -> Iterator[Handle | ItemFault]:
    """One answer per item: why the edge refused it, or the engine's, which has those of the others in order."""
    left = iter(answers)
    return (run.error or next(left) for run in runs)


def run_handle(handle: Handle) -> RunHandle:
    """The contract's handle."""
    message = RunHandle()
    _tell(message, handle)
    return message


def _tell(message: RunHandle, handle: Handle) -> None:
    message.run_id = ids.run_text(handle.run_id)
    if handle.is_cached:
        message.is_cached = True
    if handle.payload_differs:
        message.payload_differs = True


def item_error(fault: ItemFault) -> ItemError:
    """The contract's error of one item."""
    return ItemError(code=fault.code, message=fault.message, reason=fault.reason, metadata=fault.metadata)
