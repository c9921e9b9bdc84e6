"""The server: health, reflection, the API key, hostile clients, the graceful stop."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness.edge import (
    Edge,
    FakeEngine,
    refused,
    serving,
    text,
)
from holdfast.v1 import run_service_pb2 as pb
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import TriggerItem
from holdfast_scheduler import ids
from holdfast_scheduler.errors import ListenError
from holdfast_scheduler.services.server import Server


async def test_server_info_health_and_reflection(lite: Edge) -> None:
    info = await lite.runs.GetServerInfo(pb.GetServerInfoRequest())
    assert (info.replica_id, info.protocol_major) == ("replica", 1)
    health = health_pb2_grpc.HealthStub(lite.channel)
    for service in ("", "holdfast.v1.RunService", "holdfast.v1.TokenService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    stub = reflection_pb2_grpc.ServerReflectionStub(lite.channel)
    stream = stub.ServerReflectionInfo()
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in (await stream.read()).list_services_response.service}
    assert {"holdfast.v1.RunService", "grpc.health.v1.Health"} <= names
    stream.cancel()


async def test_reflection_can_be_turned_off(sqlite_url: str) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async with serving(sqlite_url, reflection=False) as edge:
        stream = reflection_pb2_grpc.ServerReflectionStub(edge.channel).ServerReflectionInfo()
        with pytest.raises(aio.AioRpcError) as caught:
            await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            await stream.read()
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_the_api_key(sqlite_url: str) -> None:
    async with serving(sqlite_url, api_key="s3cret") as edge:
        run_id = text(edge.engine.insert())
        request = pb.GetRunRequest(run_id=run_id)
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "s3cret"),)):
            async with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "HOLDFAST_API_KEY"):
                await edge.runs.GetRun(request, metadata=metadata)
        async with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await edge.runs.WatchRuns(pb.WatchRunsRequest(run_id=run_id)).read()
        async with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await edge.runs.AwaitRuns().read()
        await edge.runs.GetRun(request, metadata=(("authorization", "Bearer s3cret"),))
        await health_pb2_grpc.HealthStub(edge.channel).Check(health_pb2.HealthCheckRequest())


async def test_a_taken_port_is_one_clear_error(lite: Edge) -> None:
    second = Server(FakeEngine("sqlite://", replace(lite.engine.settings, listen=lite.server.address)))
    with pytest.raises(ListenError, match=r"cannot listen on 127\.0\.0\.1:.*in use"):
        await second.start()


async def test_garbage_on_the_port_disturbs_nobody(lite: Edge) -> None:
    run_id = text(lite.engine.insert())
    host, port = lite.server.address.split(":")
    for garbage in (
        b"\x00" * 1000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500,
        b"\x16\x03\x01\x02\x00\x01",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(garbage)
            await lite.runs.GetRun(pb.GetRunRequest(run_id=run_id))
    call = lite.channel.unary_unary("/holdfast.v1.RunService/GetRun")
    with pytest.raises(aio.AioRpcError):
        await call(b"\xff\xff\xff\xff not a message")
    with pytest.raises(aio.AioRpcError) as caught:
        await lite.channel.unary_unary("/some.other.Protocol/Call")(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    await lite.runs.GetRun(pb.GetRunRequest(run_id=run_id))


async def test_a_message_above_the_hard_limit_is_refused(lite: Edge) -> None:
    huge = TriggerItem(task_id="export", payload=Payload(data=b"x" * (21 << 20)))
    with pytest.raises(aio.AioRpcError) as caught:
        await lite.runs.Trigger(pb.TriggerRequest(items=[huge]))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    await lite.runs.GetServerInfo(pb.GetServerInfoRequest())


async def test_stop_ends_streams_and_says_so(sqlite_url: str) -> None:
    async with serving(sqlite_url) as edge:
        run_id = text(edge.engine.insert())
        awaiting = edge.runs.AwaitRuns()
        await awaiting.write(pb.AwaitRunsRequest(add=[run_id]))
        watching = edge.runs.WatchRuns(pb.WatchRunsRequest(run_id=run_id))
        await watching.read()
        waiting = asyncio.ensure_future(edge.runs.WaitRun(pb.WaitRunRequest(run_id=run_id)))
        while len(edge.engine.watchers._sinks.get("default", {}).get(ids.from_text(ids.RUN, run_id), [])) < 3:
            await asyncio.sleep(0.005)
        await edge.server.stop()
        for call in (awaiting.read(), watching.read(), waiting):
            async with refused(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"):
                await call


async def test_stop_does_not_wait_for_streams_that_watch_nothing(sqlite_url: str) -> None:
    async with serving(sqlite_url, stop_grace=3600.0) as edge:
        idle = edge.runs.AwaitRuns()
        await idle.write(pb.AwaitRunsRequest())
        empty = edge.runs.WatchRuns(pb.WatchRunsRequest(tag="nobody has it"))
        while len(edge.engine.watchers._present) < 2:
            await asyncio.sleep(0.005)
        await edge.server.stop()
        for call in (idle.read(), empty.read()):
            async with refused(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"):
                await call
