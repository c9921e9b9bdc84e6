"""The scheduler as the command line sees it: stubs, and its errors as exit codes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from holdfast.cli import exit_codes
from holdfast.cli.failure import CommandError
from holdfast.cli.options import addresses
from holdfast.v1 import run_service_pb2_grpc

CONNECT_TIMEOUT_S: Final = 5.0
"""Longest time to find a scheduler, over all addresses; covers one that is just restarting."""

CALL_TIMEOUT_S: Final = 20.0
"""Longest time for one answer."""

MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""Largest message either way: a batch, or a run with all its checkpoints."""


class Remote:
    """A connection to the first scheduler of the list that answers."""

    def __init__(self, address: str, namespace: str) -> None:
        self.namespace = namespace
        self._shown = address
        options = [
            ("grpc.max_send_message_length", MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", 0),
        ]
        self._channels = [grpc.insecure_channel(one, options=options) for one in addresses(address)]
        self.metadata: list[tuple[str, str]] = []
        if key := os.environ.get("HOLDFAST_API_KEY"):
            self.metadata.append(("authorization", f"Bearer {key}"))

    @contextlib.contextmanager
    def runs(self) -> Iterator[run_service_pb2_grpc.RunServiceStub]:
        """The run service. Raises CommandError for every error that an RPC in the block meets."""
        try:
            yield run_service_pb2_grpc.RunServiceStub(self._first_that_answers())
        except grpc.RpcError as error:
            raise self._explain(error) from error
        finally:
            for channel in self._channels:
                channel.close()

    def _first_that_answers(self) -> grpc.Channel:
        for channel in self._channels:
            with contextlib.suppress(grpc.FutureTimeoutError):
                grpc.channel_ready_future(channel).result(timeout=CONNECT_TIMEOUT_S / len(self._channels))
                return channel
        raise self._unreachable()

    def _unreachable(self) -> CommandError:
        return CommandError(
            f"no scheduler answers at {self._shown}; start one with `holdfast scheduler`, "
            "or name the right one with --address or HOLDFAST_ADDRESS",
            exit_codes.UNREACHABLE,
        )

    def _explain(self, error: grpc.RpcError) -> CommandError:
        assert isinstance(error, grpc.Call)  # every error of a call is one
        code = error.code()
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) and _reason(error) is None:
            return self._unreachable()
        kinds = {
            grpc.StatusCode.NOT_FOUND: exit_codes.NOT_FOUND,
            grpc.StatusCode.INVALID_ARGUMENT: exit_codes.WRONG_USE,
            grpc.StatusCode.UNAVAILABLE: exit_codes.UNREACHABLE,
        }
        return CommandError(error.details() or code.name, kinds.get(code, exit_codes.REFUSED))


def _reason(error: grpc.RpcError) -> str | None:
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return None
