"""TokenService: creates and completes tokens."""

from __future__ import annotations

from typing import Any, Final

from holdfast.v1 import token_service_pb2 as pb
from holdfast.v1 import token_service_pb2_grpc
from holdfast_scheduler import convert, ids, messages, reads
from holdfast_scheduler.errors import RefusedError, invalid, not_found
from holdfast_scheduler.filter import parse_token_filter
from holdfast_scheduler.model import CreateToken, ItemFault, SettleToken
from holdfast_scheduler.services.paging import page_token, place_from
from holdfast_scheduler.services.seam import Engine

_TOKENS_PER_PAGE: Final = 50

Context = Any


class TokenService(token_service_pb2_grpc.TokenServiceServicer):
    """Each method is documented in the contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits = engine.settings.limits

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        """Create a token. Its secret is not made yet: completing a token takes the API key."""
        limits = self._limits
        namespace = convert.namespace_from(request.namespace, limits)
        text = request.token_id
        token_id = convert.id_from("token_id", ids.TOKEN, text) if text else ids.new_id()
        timeout_us = None
        if request.HasField("timeout") == request.no_timeout:
            raise invalid("timeout", "give either a timeout or no_timeout, so that nothing waits forever by accident")
        if not request.no_timeout:
            timeout_us = convert.duration_us("timeout", request.timeout, limits, least=1)
        tags = convert.checked_tags("tags", request.tags, limits)
        key = None
        if request.HasField("idempotency_key"):
            key = convert.key_use(request.idempotency_key, limits=limits)
        outcome = await self._engine.do(CreateToken(namespace, token_id, timeout_us, tags, key))
        if isinstance(outcome, ItemFault):
            raise RefusedError(outcome)
        made, is_cached = outcome
        return pb.CreateTokenResponse(token=await self._token(namespace, made), is_cached=is_cached)

    async def GetToken(self, request: pb.GetTokenRequest, context: Context) -> pb.GetTokenResponse:
        """One token."""
        return pb.GetTokenResponse(token=await self._token(*self._name(request)))

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        """A page of tokens, newest first, without their data."""
        limits = self._limits
        namespace = convert.namespace_from(request.namespace, limits)
        count = convert.page_size_from(request.page_size, _TOKENS_PER_PAGE, limits)
        wanted = parse_token_filter(request.filter, limits.filter_length)
        before = place_from(request.page_token, "tokens", namespace, request.filter)
        rows = await self._engine.read(reads.list_tokens, namespace, wanted, before, count + 1)
        place = rows[count - 1].id if len(rows) > count else None
        return pb.ListTokensResponse(
            tokens=[messages.token_message(row) for row in rows[:count]],
            next_page_token=page_token(place, "tokens", namespace, request.filter),
        )

    async def CompleteToken(self, request: pb.CompleteTokenRequest, context: Context) -> pb.CompleteTokenResponse:
        """Complete a token with data."""
        namespace, token_id = self._name(request)
        limit = self._limits.payload_bytes
        data = convert.payload_bytes("data", request.data, limit, "payload_bytes")
        won = await self._settle(SettleToken(namespace, token_id, data, b""))
        return pb.CompleteTokenResponse(token=await self._token(namespace, token_id), won=won)

    async def FailToken(self, request: pb.FailTokenRequest, context: Context) -> pb.FailTokenResponse:
        """Complete a token with an error."""
        namespace, token_id = self._name(request)
        error = convert.task_error_bytes("error", request.error, self._limits)
        if not error:
            raise invalid("error", "is empty; say what went wrong")
        won = await self._settle(SettleToken(namespace, token_id, b"", error))
        return pb.FailTokenResponse(token=await self._token(namespace, token_id), won=won)

    async def _settle(self, command: SettleToken) -> bool:
        outcome = await self._engine.do(command)
        if isinstance(outcome, ItemFault):
            raise RefusedError(outcome)
        return outcome is True

    async def _token(self, namespace: str, token_id: bytes) -> pb.Token:
        row = await self._engine.read(reads.token_row, namespace, token_id)
        if row is None:
            raise not_found("token", ids.to_text(ids.TOKEN, token_id))
        return messages.token_message(row)

    def _name(self, request: Any) -> tuple[str, bytes]:
        namespace = convert.namespace_from(request.namespace, self._limits)
        return namespace, convert.id_from("token_id", ids.TOKEN, request.token_id)
