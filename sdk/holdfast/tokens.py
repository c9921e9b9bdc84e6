"""Tokens: the handles by which outsiders complete a wait. Users reach them as `wait.create_token` and so on."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from holdfast import _calls, client, durations, failures, filters, idempotency_keys, ids, options, payloads, texts
from holdfast import run as runs
from holdfast._scope import DurableCall
from holdfast.client import Client
from holdfast.durations import Duration
from holdfast.errors import ErrorInfo, TokenFailedError
from holdfast.payloads import Codec
from holdfast.v1 import payload_pb2, token_service_pb2
from holdfast.v1.payload_pb2 import TaskError
from holdfast.v1.run_pb2 import CHECKPOINT_KIND_TOKEN, CHECKPOINT_STATUS_SUCCEEDED, Checkpoint
from holdfast.v1.token_service_pb2 import (
    CompleteTokenRequest,
    CreateTokenRequest,
    FailTokenRequest,
    GetTokenRequest,
    ListTokensRequest,
)
from holdfast.v1.worker_service_pb2 import CheckpointRecord, TokenRecord

T = TypeVar("T")

_STATUS_PREFIX = "TOKEN_STATUS_"


@dataclass(frozen=True, slots=True)
class Token:
    """The handle by which an outsider completes a wait."""

    id: str
    status: str = "PENDING"
    """PENDING, COMPLETED, FAILED or TIMED_OUT."""
    tags: tuple[str, ...] = ()
    created_at: datetime | None = None
    timeout_at: datetime | None = None
    """When it times out; None for never."""
    completed_at: datetime | None = None
    data: Any = None
    """The data it was completed with."""
    error: ErrorInfo | None = None
    is_cached: bool = False
    """Whether it existed already under its idempotency key."""
    secret: str = ""
    """With it an outsider without an API key may complete the token. Only its creator, outside a run, gets it."""


@dataclass(frozen=True, slots=True)
class TokenResult(Generic[T]):
    """How a wait for a token ended."""

    token_id: str
    output: T | None
    """The data it was completed with."""
    error: ErrorInfo | None
    """Why there is none: it was failed, or timed out."""

    @property
    def ok(self) -> bool:
        """Whether it was completed with data."""
        return self.error is None

    def unwrap(self) -> T:
        """The data. Raises: TokenFailedError when it was failed or timed out."""
        if self.error is not None:
            raise TokenFailedError(self.token_id, self.error)
        return self.output  # type: ignore[return-value]  # data of type T, which may be None


@dataclass(frozen=True, slots=True)
class TokenPage:
    """A page of tokens."""

    tokens: tuple[Token, ...]
    next_page_token: str
    """Empty on the last page."""

    def __iter__(self) -> Iterator[Token]:
        return iter(self.tokens)


def create(timeout: Duration | None, tags: Any, given: Mapping[str, Any]) -> Coroutine[Any, Any, Token]:
    """See `wait.create_token`."""
    scope = _calls.scope_of("wait.create_token()")
    limit = None if timeout is None else durations.to_message(timeout, "wait.create_token: timeout")
    checked = texts.check_tags(tags)
    key = options.key_of(given, scope is not None)
    key_message = None if key is None else key.to_message(given.get("idempotency_key_ttl"))
    token_id = ids.new_token_id()
    if scope is None:
        request = CreateTokenRequest(
            token_id=token_id, timeout=limit, no_timeout=limit is None, tags=checked, idempotency_key=key_message
        )
        return _create(request, client.current())
    record = TokenRecord(token_id=token_id, timeout=limit, tags=checked, idempotency_key=key_message)
    call = DurableCall(
        CHECKPOINT_KIND_TOKEN,
        CheckpointRecord(name="token", token=record),
        None if key is None else idempotency_keys.encode_call("token", "", key, scope),
    )
    return _calls.ask(scope, call, lambda checkpoint: _created(token_id, tuple(checked), checkpoint))


def codec_of(output_type: Any, token_id: str) -> Codec[Any]:
    """Decodes a token's data."""
    return payloads.anything if output_type is Any else Codec(output_type, f"data of token {token_id}")


def result_of(token_id: str, checkpoint: Checkpoint, codec: Codec[T]) -> TokenResult[T]:
    """What the checkpoint of a wait for a token means."""
    _calls.check_triggered(checkpoint)
    if checkpoint.status == CHECKPOINT_STATUS_SUCCEEDED:
        return TokenResult(token_id, codec.decode_payload(checkpoint.value), None)
    return TokenResult(token_id, None, failures.to_info(checkpoint.error))


async def complete(token: Token | str, data: Any) -> bool:
    """See `wait.complete_token`."""
    asked = client.current()
    encoded = payloads.encode_any(data, "token data")
    request = CompleteTokenRequest(
        namespace=asked.settings.namespace, token_id=_id(token), data=payloads.to_payload(encoded)
    )
    response = await asked.call(lambda endpoint: endpoint.tokens.CompleteToken, request)
    return bool(response.won)


async def fail(token: Token | str, message: str, type_name: str, details: Any) -> bool:
    """See `wait.fail_token`."""
    asked = client.current()
    error = TaskError(
        kind=payload_pb2.TASK_ERROR_KIND_USER,
        type=texts.check(type_name, "wait.fail_token: type"),
        message=texts.clean(message, failures.MAX_MESSAGE_CHARS),
    )
    if details is not None:
        error.details.data = payloads.encode_any(details, "details", "error details", failures.MAX_DETAILS_BYTES)
    request = FailTokenRequest(namespace=asked.settings.namespace, token_id=_id(token), error=error)
    response = await asked.call(lambda endpoint: endpoint.tokens.FailToken, request)
    return bool(response.won)


async def retrieve(token: Token | str) -> Token:
    """See `wait.retrieve_token`."""
    asked = client.current()
    request = GetTokenRequest(namespace=asked.settings.namespace, token_id=_id(token))
    response = await asked.call(lambda endpoint: endpoint.tokens.GetToken, request)
    return _of_message(response.token)


async def list_page(status: str | None, tag: str | None, limit: int, page_token: str) -> TokenPage:
    """See `wait.list_tokens`."""
    asked = client.current()
    request = ListTokensRequest(
        namespace=asked.settings.namespace,
        page_size=filters.page_size(limit),
        page_token=page_token,
        filter=filters.build(status=status, tag=tag),
    )
    response = await asked.call(lambda endpoint: endpoint.tokens.ListTokens, request)
    return TokenPage(tuple(_of_message(token) for token in response.tokens), response.next_page_token)


async def _create(request: CreateTokenRequest, asked: Client) -> Token:
    request.namespace = asked.settings.namespace
    response = await asked.call(lambda endpoint: endpoint.tokens.CreateToken, request)
    return _of_message(response.token, response.is_cached, response.secret)


def _created(token_id: str, tags: tuple[str, ...], checkpoint: Checkpoint) -> Token:
    _calls.check_triggered(checkpoint)
    return Token(checkpoint.subject_id or token_id, tags=tags, is_cached=checkpoint.is_cached)


def _of_message(message: token_service_pb2.Token, is_cached: bool = False, secret: str = "") -> Token:
    return Token(
        id=message.id,
        status=token_service_pb2.TokenStatus.Name(message.status).removeprefix(_STATUS_PREFIX),
        tags=tuple(message.tags),
        created_at=runs.instant_of(message, "created_at"),
        timeout_at=runs.instant_of(message, "timeout_at"),
        completed_at=runs.instant_of(message, "completed_at"),
        data=payloads.anything.decode_payload(message.data) if message.HasField("data") else None,
        error=failures.to_info(message.error) if message.HasField("error") else None,
        is_cached=is_cached,
        secret=secret,
    )


def _id(token: Token | str) -> str:
    return token.id if isinstance(token, Token) else texts.check(token, "token id")
