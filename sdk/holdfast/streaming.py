"""Server streams that survive the scheduler they began with: a break is mended where it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from holdfast import rpc_errors
from holdfast.client import Client
from holdfast.connection import Endpoint


async def responses(
    client: Client, rpc: Callable[[Endpoint], Any], request: Message, go_on: Callable[[Any], None]
) -> AsyncIterator[Any]:
    """The responses to a request. `go_on` has the request ask for what follows a response, should the stream break; it
    is called before the response is handed on.

    Raises: SchedulerUnavailableError when no scheduler has answered for the client's deadline; RequestError and others
    for refusals.
    """
    connection = client.connection
    clock = asyncio.get_running_loop().time
    back_off, heard_at = connection.back_off(), clock()
    while True:
        endpoint = connection.endpoint()
        call = rpc(endpoint)(request, metadata=connection.metadata)
        try:
            async for response in call:
                go_on(response)
                yield response
                back_off, heard_at = connection.back_off(), clock()
            return
        except grpc.aio.AioRpcError as error:
            pause = back_off.next()
            if not rpc_errors.may_repeat(error) or clock() + pause - heard_at >= connection.settings.deadline:
                raise rpc_errors.of_call(error, connection.settings.shown_addresses) from None
        finally:
            call.cancel()
        connection.fail_over(endpoint)
        await asyncio.sleep(pause)
