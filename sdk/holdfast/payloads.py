"""Values that cross Holdfast: JSON by the declared type, in both directions."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

import pydantic_core
from pydantic import PydanticInvalidForJsonSchema, PydanticUserError, TypeAdapter, ValidationError

from holdfast.errors import PayloadError, TooLargeError
from holdfast.v1.payload_pb2 import Payload

T = TypeVar("T")

MAX_PAYLOAD_BYTES = 1024 * 1024
MAX_STEP_RESULT_BYTES = 256 * 1024
MAX_METADATA_BYTES = 256 * 1024

JSON = "application/json"
NULL = b"null"
_FINGERPRINT_BYTES = 16
_SUSPECTS = (b"null", b"NaN", b"Infinity")  # how a number that JSON lacks may have been written
_SHOWN_ERRORS = 5


class Codec(Generic[T]):
    """Encodes and decodes values of one declared type: a pydantic model, dataclass, TypedDict or builtin.

    `what` is what errors call the value, for example "payload of task 'export'".
    """

    def __init__(self, annotation: Any, what: str, adapter: TypeAdapter[T] | None = None) -> None:
        self.annotation = annotation
        self.what = what
        self._adapter = adapter

    @property
    def adapter(self) -> TypeAdapter[T]:
        """Made when first needed: building it costs time, and most processes use few of their tasks."""
        if self._adapter is None:
            try:
                self._adapter = TypeAdapter(self.annotation)
            except (PydanticUserError, TypeError, NameError) as error:
                raise PayloadError(
                    f"{self.what}: cannot make JSON of the type {self.annotation!r}. Annotate it with a pydantic "
                    f"model, a dataclass, a TypedDict or a builtin type. ({_first_line(error)})"
                ) from error
        return self._adapter

    def encode(self, value: T, limit: str = "payload", maximum: int = MAX_PAYLOAD_BYTES) -> bytes:
        """`value`, checked against the type, as JSON.

        Raises: PayloadError when it does not fit or holds NaN or an infinity; TooLargeError.
        """
        adapter = self._adapter or self.adapter
        try:
            value = adapter.validate_python(value)
            data = adapter.dump_json(value, warnings="error")
        except (ValidationError, pydantic_core.PydanticSerializationError) as error:
            raise PayloadError(f"{self.what}: {explain(error)}") from error
        if any(suspect in data for suspect in _SUSPECTS):
            _refuse_non_finite(adapter.dump_python(value), self.what)
        check_size(data, self.what, limit, maximum)
        return data

    def decode(self, data: bytes) -> T:
        """The value that `data` encodes. Raises: PayloadError when it does not fit the type."""
        adapter = self._adapter or self.adapter
        try:
            value = adapter.validate_json(data or NULL)
        except ValidationError as error:
            raise PayloadError(f"{self.what}: {explain(error)}") from error
        if b"NaN" in data or b"Infinity" in data:
            _refuse_constants(data, self.what)
        return value

    def decode_payload(self, payload: Payload) -> T:
        """The value of a `Payload`. Raises: PayloadError, also for a content type or codec that is not known here."""
        return self.decode(payload_data(payload, self.what))

    def schema(self) -> bytes:
        """The type's JSON Schema in UTF-8; empty when it accepts anything or has none."""
        if self.annotation is Any or self.annotation is inspect.Parameter.empty:
            return b""
        try:
            return json.dumps(self.adapter.json_schema(), separators=(",", ":")).encode()
        except PydanticInvalidForJsonSchema:
            return b""


anything: Codec[Any] = Codec(Any, "value")
"""Accepts and yields whatever JSON can say."""


def payload_data(payload: Payload, what: str) -> bytes:
    """The JSON in a `Payload`. Raises: PayloadError for a content type or codec that is not known here."""
    if payload.codec:
        raise PayloadError(f"{what}: encoded by the codec {payload.codec!r}, which is not known here.")
    if payload.content_type not in ("", JSON):
        raise PayloadError(f"{what}: its content type is {payload.content_type!r}; only {JSON} is understood here.")
    return payload.data or NULL


def to_payload(data: bytes) -> Payload:
    """JSON as a `Payload`."""
    return Payload(data=data)


def encode_any(value: Any, what: str, limit: str = "payload", maximum: int = MAX_PAYLOAD_BYTES) -> bytes:
    """Any value as JSON, by its own type. Raises: PayloadError, TooLargeError."""
    try:
        data = pydantic_core.to_json(value, inf_nan_mode="constants")
    except (pydantic_core.PydanticSerializationError, ValueError) as error:
        raise PayloadError(f"{what}: {_first_line(error)}") from error
    if b"NaN" in data or b"Infinity" in data:
        _refuse_constants(data, what)
    check_size(data, what, limit, maximum)
    return data


def fingerprint(task_id: str, data: bytes) -> bytes:
    """A short digest of a task's id and a payload: tells whether two triggers ask for the same."""
    digest = hashlib.blake2b(task_id.encode(), digest_size=_FINGERPRINT_BYTES)
    digest.update(b"\0")  # an id has no NUL, so the two cannot run into each other
    digest.update(data)
    return digest.digest()


def check_size(data: bytes, what: str, limit: str, maximum: int) -> None:
    """Raises: TooLargeError when `data` is larger than `maximum`; `limit` is the limit's name."""
    if len(data) > maximum:
        raise TooLargeError(
            f"{what}: {len(data):,} bytes are more than the {limit} limit of {maximum:,}. "
            "Store it elsewhere and hand on a reference to it.",
            limit=limit,
            size=len(data),
            maximum=maximum,
        )


def explain(error: Exception) -> str:
    """A validation error in one line."""
    if not isinstance(error, ValidationError):
        return _first_line(error)
    found = error.errors(include_url=False, include_input=False, include_context=False)
    parts = []
    for item in found[:_SHOWN_ERRORS]:
        place = ".".join(str(step) for step in item["loc"])
        parts.append(f"{place}: {item['msg']}" if place else item["msg"])
    more = len(found) - _SHOWN_ERRORS
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _refuse_non_finite(value: object, what: str) -> None:
    """pydantic writes NaN as null, silently: look at the values themselves."""
    todo = [value]
    while todo:
        current = todo.pop()
        if isinstance(current, float):
            if not math.isfinite(current):
                raise _not_json(what, repr(current))
        elif isinstance(current, Mapping):
            todo.extend(current)
            todo.extend(current.values())
        elif isinstance(current, list | tuple | set | frozenset):
            todo.extend(current)
        elif hasattr(current, "__dict__"):
            todo.extend(vars(current).values())


def _refuse_constants(data: bytes, what: str) -> None:
    def refuse(constant: str) -> None:
        raise _not_json(what, constant)

    json.loads(data, parse_constant=refuse)


def _not_json(what: str, number: str) -> PayloadError:
    return PayloadError(f"{what}: {number} is not a JSON number. Use None, or text, for what has no value.")


def as_object(data: bytes) -> dict[str, object]:
    """A JSON object as a dict; an empty one for no data."""
    return cast("dict[str, object]", json.loads(data)) if data else {}
