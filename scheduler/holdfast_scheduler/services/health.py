"""The standard health service, by which orchestrators and load balancers see that a scheduler is ready, or stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdfast_scheduler.errors import ShuttingDownError

OVERALL: Final = ""
"""The name that stands for the scheduler as a whole."""

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Serves from the start until `stop`. The servicer of grpc_health keeps its watches open over a stop, which then
    takes the whole grace; here they end once they have said it."""

    def __init__(self) -> None:
        self._names = {OVERALL}
        self._stopping = asyncio.Event()

    def add(self, names: Iterable[str]) -> None:
        """Answer for these services too."""
        self._names.update(names)

    def stop(self) -> None:
        """From now on nothing serves."""
        self._stopping.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        """How it is now."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def List(self, request: health_pb2.HealthListRequest, context: Any) -> health_pb2.HealthListResponse:
        """How all are now, by name."""
        statuses = {name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in self._names}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """How it is now, and once more when it changes. Raises: ShuttingDownError after that."""
        while True:
            is_stopping = self._stopping.is_set()
            yield health_pb2.HealthCheckResponse(status=self._status(request.service))
            if is_stopping:
                raise ShuttingDownError()
            await self._stopping.wait()

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
        if service not in self._names:
            return SERVICE_UNKNOWN
        return NOT_SERVING if self._stopping.is_set() else SERVING
