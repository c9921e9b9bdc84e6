"""Idempotency keys: within its time to live, a key returns the same run.

`create` needs no I/O. The scheduler hashes the parts, so that every language agrees.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from holdfast import _scope, durations, texts
from holdfast._scope import RunScope
from holdfast.durations import Duration
from holdfast.errors import InvalidArgumentError, InvalidKeyError
from holdfast.v1 import run_pb2
from holdfast.v1.run_service_pb2 import ResetIdempotencyKeyRequest

if TYPE_CHECKING:
    from holdfast._task import Task

KeyPart = str | int | bool
Scope = Literal["run", "global", "attempt"]

MAX_PARTS = 32
MAX_ENCODED_BYTES = 2048
_INT64 = 1 << 63
_SCOPES: dict[str | None, run_pb2.KeyScope] = {
    None: run_pb2.KEY_SCOPE_UNSPECIFIED,
    "run": run_pb2.KEY_SCOPE_RUN,
    "global": run_pb2.KEY_SCOPE_GLOBAL,
    "attempt": run_pb2.KEY_SCOPE_ATTEMPT,
}


@dataclass(frozen=True, slots=True, eq=False)
class IdempotencyKey:
    """A key; make it with `create`. Two are equal when parts (with their types) and scope are."""

    parts: tuple[KeyPart, ...]
    scope: Scope | None
    """None means "run" inside a run and "global" outside."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdempotencyKey) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def to_message(self, ttl: Duration | None = None) -> run_pb2.IdempotencyKey:
        """The key as it travels. Raises: InvalidDurationError."""
        message = run_pb2.IdempotencyKey(parts=[_part_message(part) for part in self.parts], scope=_SCOPES[self.scope])
        if ttl is not None:
            message.ttl.CopyFrom(durations.to_message(ttl, "idempotency_key_ttl"))
        return message

    def _identity(self) -> tuple[bytes, str | None]:
        return encode(self.parts), self.scope


def create(parts: KeyPart | Iterable[KeyPart], scope: Scope | None = None) -> IdempotencyKey:
    """A key of one or more parts: texts, integers and booleans.

    Parts are never run together: ["a", "b"] is another key than ["a-b"], and [1] another than ["1"]. `scope` says
    within what the key is unique: "run", "global" or "attempt"; by default "run" inside a run, "global" outside.

    Raises: InvalidKeyError, for floats too: they have no one text.
    """
    given = (parts,) if isinstance(parts, str | int) else parts
    if not isinstance(given, Iterable):
        raise InvalidKeyError(f"idempotency key: {parts!r} is neither a part nor a list of parts.")
    checked = tuple(_checked(part) for part in given)
    if not 1 <= len(checked) <= MAX_PARTS:
        raise InvalidKeyError(f"idempotency key: {len(checked)} parts; a key has 1 to {MAX_PARTS}.")
    if scope not in _SCOPES:
        raise InvalidKeyError(f'idempotency key: scope {scope!r} is not "run", "global" or "attempt".')
    size = len(encode(checked))
    if size > MAX_ENCODED_BYTES:
        raise InvalidKeyError(f"idempotency key: {size} bytes are more than the limit of {MAX_ENCODED_BYTES}.")
    return IdempotencyKey(checked, scope)


def of(value: object) -> IdempotencyKey:
    """The key that an option means: a created key, or a plain text, which is a key of one part.

    Raises: InvalidKeyError.
    """
    if isinstance(value, IdempotencyKey):
        return value
    if isinstance(value, str):
        return create(value)
    raise InvalidKeyError(
        f"idempotency_key: {value!r} is neither text nor a created key; write idempotency_keys.create([...])."
    )


def encode(parts: Iterable[KeyPart]) -> bytes:
    """Parts as bytes, so that different parts never give the same: each is its kind, its length and its text."""
    out = []
    for part in parts:
        if isinstance(part, bool):
            out.append(b"b1:1" if part else b"b1:0")
        else:
            text = part.encode() if isinstance(part, str) else b"%d" % part
            out.append(b"%c%d:%s" % (b"s" if isinstance(part, str) else b"i", len(text), text))
    return b"".join(out)


def encode_call(kind: str, subject: str, key: IdempotencyKey, scope: RunScope) -> bytes:
    """What identifies a keyed durable call within its run: its kind of thing, the task, and the key; for a key of scope
    "attempt" also the attempt."""
    within = f"attempt {scope.ctx.attempt.number}" if key.scope == "attempt" else key.scope or "run"
    return encode((kind, subject, within, *key.parts))


async def reset(task: Task[Any, Any] | str, key: IdempotencyKey | str) -> bool:
    """Free a key, so that the next trigger with it makes a new run; returns whether it was held.

    Inside a run, a key of scope "run" (the default there) or "attempt" is that of this run.

    Raises: InvalidKeyError, RequestError, SchedulerUnavailableError.
    """
    from holdfast import client  # making keys needs no network; only this does

    asked = client.current()
    message = of(key).to_message()
    request = ResetIdempotencyKeyRequest(
        namespace=asked.settings.namespace,
        task_id=task if isinstance(task, str) else task.id,
        idempotency_key=message,
    )
    scope = _scope.current()
    if scope is not None and message.scope != run_pb2.KEY_SCOPE_GLOBAL:
        request.run_id = scope.ctx.run.id
        request.attempt = scope.ctx.attempt.number
    elif message.scope in (run_pb2.KEY_SCOPE_RUN, run_pb2.KEY_SCOPE_ATTEMPT):
        raise InvalidKeyError('idempotency_keys.reset: outside a run only keys of scope "global" can be reset.')
    response = await asked.call(lambda endpoint: endpoint.runs.ResetIdempotencyKey, request)
    return bool(response.existed)


def _checked(part: object) -> KeyPart:
    if isinstance(part, str):
        try:
            return texts.check(part, "idempotency key: part", texts.MAX_KEY_CHARS)
        except InvalidArgumentError as error:
            raise InvalidKeyError(str(error)) from None
    if isinstance(part, int):  # booleans too
        if not -_INT64 <= part < _INT64:
            raise InvalidKeyError(f"idempotency key: {part} does not fit in 64 bits; use it as text.")
        return part
    hint = " A float has no one text; round it, or use it as text." if isinstance(part, float) else ""
    raise InvalidKeyError(f"idempotency key: part {part!r} is not text, an integer or a boolean.{hint}")


def _part_message(part: KeyPart) -> run_pb2.KeyPart:
    if isinstance(part, bool):
        return run_pb2.KeyPart(flag=part)
    if isinstance(part, int):
        return run_pb2.KeyPart(number=part)
    return run_pb2.KeyPart(text=part)
