"""The gRPC server: services, health, reflection, limits; start and graceful stop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final, Protocol

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import _async as reflection_aio  # its own `enable` asks for a server, not for a Surround
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from holdfast.v1 import (
    queue_service_pb2,
    queue_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
    schedule_service_pb2,
    schedule_service_pb2_grpc,
    task_pb2,
    task_pb2_grpc,
    token_service_pb2,
    token_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)
from holdfast_scheduler.errors import ListenError
from holdfast_scheduler.services.health import HealthService
from holdfast_scheduler.services.queue_service import QueueService
from holdfast_scheduler.services.run_service import RunService
from holdfast_scheduler.services.schedule_service import ScheduleService
from holdfast_scheduler.services.seam import Engine
from holdfast_scheduler.services.surround import Surround
from holdfast_scheduler.services.task_service import TaskService
from holdfast_scheduler.services.token_service import TokenService

MESSAGE_BYTES: Final = 20 * 1024 * 1024
"""Most bytes of one message either way: a batch of 16 MiB with its surroundings. Streams enforce their own 4 MiB."""

_LEAVE: Final = 1.0

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    # Two schedulers on one port would share the connections between them: the second must fail instead.
    ("grpc.so_reuseport", 0),
    # A dead peer is noticed within 15 s, and clients may ping as often as every 5 s while they have no call open.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class WorkerService(Protocol):
    """What the server needs of the service that workers speak to."""

    def announce_stop(self) -> None:
        """Tell every connected worker to connect elsewhere."""

    def close_streams(self) -> None:
        """End the streams of those that are still here."""


class Server:
    """All services on one port. Must be made in a running event loop."""

    def __init__(self, engine: Engine, worker_service: WorkerService | None = None) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._worker_service = worker_service
        self._server = aio.server(options=_OPTIONS)
        self._health = HealthService()
        self._register()
        self.address = ""

    def _register(self) -> None:
        surround, engine = Surround(self._settings.api_key or ""), self._engine
        added: list[tuple[Any, Any, Any]] = [
            (run_service_pb2, run_service_pb2_grpc.add_RunServiceServicer_to_server, RunService(engine)),
            (task_pb2, task_pb2_grpc.add_TaskServiceServicer_to_server, TaskService(engine)),
            (token_service_pb2, token_service_pb2_grpc.add_TokenServiceServicer_to_server, TokenService(engine)),
            (queue_service_pb2, queue_service_pb2_grpc.add_QueueServiceServicer_to_server, QueueService(engine)),
            (
                schedule_service_pb2,
                schedule_service_pb2_grpc.add_ScheduleServiceServicer_to_server,
                ScheduleService(engine),
            ),
        ]
        if self._worker_service is not None:
            add_worker_service = worker_service_pb2_grpc.add_WorkerServiceServicer_to_server
            added.append((worker_service_pb2, add_worker_service, self._worker_service))
        names = []
        for module, add, service in added:
            add(service, surround)
            names += [found.full_name for found in module.DESCRIPTOR.services_by_name.values()]
        self._health.add(names)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, surround)
        if self._settings.reflection:
            health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
            servicer = reflection_aio.ReflectionServicer([*names, health_name, reflection.SERVICE_NAME])
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, surround)
        self._server.add_generic_rpc_handlers((surround,))

    async def start(self) -> str:
        """Listen and serve; returns the address with the real port.

        Raises: ListenError when the address is malformed, not allowed, or taken.
        """
        host, port = self._settings.host_and_port()
        shown_host = f"[{host}]" if ":" in host else host
        shown = f"{shown_host}:{port}"
        _try_to_listen(host, port, shown)
        try:
            bound = self._server.add_insecure_port(shown)
        except RuntimeError:  # somebody took it just now
            raise _cannot_listen(shown, "it was taken a moment ago") from None
        await self._server.start()
        self.address = f"{shown_host}:{bound}"
        return self.address

    async def stop(self) -> None:
        """Stop gracefully: say so, let calls in flight end within `settings.stop_grace`, then cut off the rest.

        Workers get `_LEAVE` seconds to go to another replica; those that have no other one are sent away after it.
        """
        self._health.stop()
        if self._worker_service is not None:
            self._worker_service.announce_stop()
        self._engine.watchers.stop()
        stopping = asyncio.ensure_future(self._server.stop(self._settings.stop_grace))
        if self._worker_service is not None:
            await asyncio.wait([stopping], timeout=min(_LEAVE, self._settings.stop_grace))
            self._worker_service.close_streams()
        await stopping


def _try_to_listen(host: str, port: int, shown: str) -> None:
    """Find out why an address cannot be listened on: gRPC would write it to stderr in its own words."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise _cannot_listen(shown, str(error.strerror or error)) from None


def _cannot_listen(shown: str, why: str) -> ListenError:
    return ListenError(f"cannot listen on {shown}: {why}; choose another address with --listen HOST:PORT")
