"""Channels to the schedulers, for one process and one event loop: fail-over, repetition, errors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from holdfast import rpc_errors
from holdfast.settings import Settings
from holdfast.v1.queue_service_pb2_grpc import QueueServiceStub
from holdfast.v1.run_service_pb2_grpc import RunServiceStub
from holdfast.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from holdfast.v1.task_pb2_grpc import TaskServiceStub
from holdfast.v1.token_service_pb2_grpc import TokenServiceStub

TRY_TIMEOUT = 10.0
"""Seconds after which one try is given up and the request goes to the next address."""
LEAST_TIMEOUT = 1.0
"""Seconds for the only try of a request whose deadline has passed before it: the event loop was blocked."""
FIRST_BACK_OFF = 0.05
LONGEST_BACK_OFF = 2.0
MAX_SENT_BYTES = 17 * 1024 * 1024
"""A batch of 16 MiB and what surrounds it."""
MAX_RECEIVED_BYTES = 64 * 1024 * 1024

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", MAX_SENT_BYTES),
    ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),  # gRPC's own begin at 1 s and grow to 2 min
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),  # they are made here, where the ids are known to make them safe
    ("grpc.enable_http_proxy", 0),  # a proxy for web pages is none for a service in one's own network
]


class Endpoint:
    """One scheduler address with its channel and stubs."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.runs: Any = RunServiceStub(self.channel)
        self.tokens: Any = TokenServiceStub(self.channel)
        self.tasks: Any = TaskServiceStub(self.channel)
        self.queues: Any = QueueServiceStub(self.channel)
        self.schedules: Any = ScheduleServiceStub(self.channel)


class BackOff:
    """The pauses between tries: none before each address was tried once, then growing and spread at random."""

    def __init__(self, addresses: int) -> None:
        self._addresses = addresses
        self._failures = 0
        self._ceiling = FIRST_BACK_OFF

    def next(self) -> float:
        """Seconds to pause after one more failure."""
        self._failures += 1
        if self._failures % self._addresses:
            return 0.0
        pause = random.uniform(self._ceiling / 2, self._ceiling)
        self._ceiling = min(LONGEST_BACK_OFF, self._ceiling * 2)
        return pause


class Connection:
    """The schedulers as one process and one event loop see them. Every request may be repeated: ids make that safe."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metadata = (("authorization", f"Bearer {settings.api_key}"),) if settings.api_key else ()
        self._endpoints: dict[str, Endpoint] = {}
        self._current = random.randrange(len(settings.addresses))

    def endpoint(self) -> Endpoint:
        """The endpoint that answered last, or the next to be tried."""
        address = self.settings.addresses[self._current]
        endpoint = self._endpoints.get(address)
        if endpoint is None:
            endpoint = self._endpoints[address] = Endpoint(address)
        return endpoint

    def fail_over(self, failed: Endpoint) -> None:
        """Turn to the next address, unless another caller has done so already."""
        addresses = self.settings.addresses
        if addresses[self._current] == failed.address:
            self._current = (self._current + 1) % len(addresses)

    def back_off(self) -> BackOff:
        """Fresh pauses."""
        return BackOff(len(self.settings.addresses))

    async def call(self, rpc: Callable[[Endpoint], Any], request: Message, *, since: float | None = None) -> Any:
        """The answer to a unary request, which is repeated, as it is, while no scheduler answers.

        The deadline counts from `since`, an instant of the loop's clock; from now, if that is left out.

        Raises: SchedulerUnavailableError after the deadline; RequestError and others for refusals.
        """
        clock = asyncio.get_running_loop().time
        deadline = (clock() if since is None else since) + self.settings.deadline
        back_off: BackOff | None = None
        left = deadline - clock()
        timeout = min(TRY_TIMEOUT, left if left > 0 else LEAST_TIMEOUT)
        while True:
            endpoint = self.endpoint()
            try:
                return await rpc(endpoint)(request, timeout=timeout, metadata=self.metadata)
            except grpc.aio.AioRpcError as error:
                if not rpc_errors.may_repeat(error):
                    raise rpc_errors.of_call(error, endpoint.address) from None
                failure = error
            self.fail_over(endpoint)
            back_off = back_off or self.back_off()
            pause = back_off.next()
            left = deadline - clock() - pause
            if left <= 0:
                raise rpc_errors.of_call(failure, self.settings.shown_addresses) from None
            await asyncio.sleep(pause)
            timeout = min(TRY_TIMEOUT, left)

    async def close(self) -> None:
        """Close every channel; calls in flight fail."""
        endpoints, self._endpoints = list(self._endpoints.values()), {}
        for endpoint in endpoints:
            await endpoint.channel.close(None)
