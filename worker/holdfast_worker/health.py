"""The worker's own answer to health checks, by the standard gRPC method.

It is given on the supervisor's event loop, so a supervisor that hangs does not give it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio

SERVICE: Final = "grpc.health.v1.Health"
THE_WHOLE: Final = b""
"""A HealthCheckRequest about the worker as a whole; there are no parts to ask about."""
SERVING: Final = b"\x08\x01"
NOT_SERVING: Final = b"\x08\x02"
"""The two HealthCheckResponses. Messages this small need not the package that belongs to another extra."""


class HealthServer:
    """Answers at `address`, HOST:PORT or unix:PATH, with what `is_serving` says at that moment."""

    def __init__(self, address: str, is_serving: Callable[[], bool]) -> None:
        self._address = address
        self._is_serving = is_serving
        # Two workers on one port would share the questions between them: the second must fail instead.
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        check = grpc.unary_unary_rpc_method_handler(self._check)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Check": check}),))

    async def start(self) -> None:
        """Answer from now on. Raises: OSError when the address is malformed or taken."""
        try:
            self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise OSError(
                f"cannot answer health checks at {self._address}: it is taken, or neither HOST:PORT nor unix:PATH"
            ) from error
        await self._server.start()

    async def stop(self) -> None:
        """Answer no more."""
        await self._server.stop(None)

    async def _check(self, request: bytes, context: Any) -> bytes:
        if request != THE_WHOLE:
            await context.abort(grpc.StatusCode.NOT_FOUND, "a worker has no services; ask for the empty name")
        return SERVING if self._is_serving() else NOT_SERVING
