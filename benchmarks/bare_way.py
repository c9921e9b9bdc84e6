"""The limit of latency: the way of one run with nothing done on it.

The same processes as in a deployment pass bytes over the same kinds of connection: a client triggers over one stream
and awaits over another; a server commits the rows of a run that executes, passes its id over the worker's stream to a
supervisor and over a socket to an executor, where a coroutine runs; on the way back the server commits the run's end.
Each commit is one transaction on the tables and indexes of the migrations, in one round trip to PostgreSQL. No rules,
no locks, no look at the database, no messages to make or to read.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import psycopg

from benchmarks.limit import TRANSACTIONS
from harness.ports import free_port
from holdfast_scheduler import ids
from holdfast_scheduler.pipeline import Pipeline, plain

WARM_UP: Final = 100
START_S: Final = 20.0
PATIENCE_S: Final = 300.0
SERVICE: Final = "bench.BareWay"

_Commit = Callable[[int, bytes], None]
"""Commits the first (0) or the second (1) transaction of a run."""


def latencies(url: str, count: int) -> list[float]:
    """Seconds from trigger to result, so many in a row, on the database that `url` names."""
    spawn = multiprocessing.get_context("spawn")
    address = f"127.0.0.1:{free_port()}"
    upper, lower = socket.socketpair()
    found = spawn.SimpleQueue()
    ends = [(_serve, (url, address)), (_supervise, (address, upper)), (_execute, (lower,))]
    processes = [spawn.Process(target=end, args=arguments, daemon=True) for end, arguments in ends]  # type: ignore[arg-type]
    client = spawn.Process(target=_trigger, args=(address, count, found), daemon=True)
    try:
        for process in (*processes, client):
            process.start()
        deadline = time.monotonic() + PATIENCE_S
        while found.empty():
            dead = [one.name for one in processes if not one.is_alive()]
            if dead or not client.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the bare way was not gone: {dead or 'the client'} ended, or it took too long")
            time.sleep(0.05)
        return list(found.get())
    finally:
        for process in (client, *reversed(processes)):
            process.kill()
        for process in (client, *processes):
            process.join()


def _same(data: bytes) -> bytes:
    return data


def _postgres(url: str) -> _Commit:
    pipeline = Pipeline(psycopg.connect(url, options="-c jit=off"))

    def commit(which: int, run_id: bytes) -> None:
        pipeline.send("BEGIN")
        for statement in TRANSACTIONS[which]:
            (row,) = statement.rows([run_id])
            pipeline.send(statement.one, [plain(value) for value in row])
        pipeline.end("COMMIT")

    return commit


def _sqlite(url: str) -> _Commit:
    connection = sqlite3.connect(os.fspath(url.removeprefix("sqlite:///")), isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")

    def commit(which: int, run_id: bytes) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement in TRANSACTIONS[which]:
            connection.executemany(statement.sqlite, statement.rows([run_id]))
        connection.commit()

    return commit


def _serve(url: str, address: str) -> None:
    asyncio.run(_Server(_sqlite(url) if url.startswith("sqlite") else _postgres(url)).run(address))


class _Server:
    def __init__(self, commit: _Commit) -> None:
        self._commit = commit
        self._to_worker: asyncio.Queue[bytes] = asyncio.Queue()
        self._to_client: asyncio.Queue[bytes] = asyncio.Queue()
        self._triggered: asyncio.Queue[bytes] = asyncio.Queue()

    async def run(self, address: str) -> None:
        stream = grpc.stream_stream_rpc_method_handler
        handlers = {
            "Trigger": stream(self._trigger, _same, _same),
            "Work": stream(self._work, _same, _same),
            "Await": stream(self._awaited, _same, _same),
        }
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        server.add_insecure_port(address)
        await server.start()
        await server.wait_for_termination()

    async def _trigger(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async def read() -> None:
            async for run_id in requests:
                self._commit(0, run_id)
                self._to_worker.put_nowait(run_id)
                self._triggered.put_nowait(run_id)

        reader = asyncio.ensure_future(read())
        while not reader.done():
            yield await self._triggered.get()

    async def _work(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async def read() -> None:
            async for run_id in requests:
                self._commit(1, run_id)
                self._to_client.put_nowait(run_id)

        reader = asyncio.ensure_future(read())
        while not reader.done():
            yield await self._to_worker.get()

    async def _awaited(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async def read() -> None:
            async for _ in requests:
                pass

        reader = asyncio.ensure_future(read())
        while not reader.done():
            yield await self._to_client.get()


class _Socket(asyncio.Protocol):
    """Calls back with what comes."""

    def __init__(self, came: Callable[[bytes], None]) -> None:
        self._came = came

    def data_received(self, data: bytes) -> None:
        self._came(data)


def _stream(channel: grpc.aio.Channel, method: str) -> Any:
    opened: Any = channel.stream_stream(f"/{SERVICE}/{method}", _same, _same)
    return opened()


def _supervise(address: str, to_executor: socket.socket) -> None:
    async def main() -> None:
        reports: asyncio.Queue[bytes] = asyncio.Queue()
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: _Socket(reports.put_nowait), sock=to_executor
        )
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), START_S)
            call = _stream(channel, "Work")

            async def write() -> None:
                while True:
                    await call.write(await reports.get())

            writer = asyncio.ensure_future(write())
            while not writer.done():
                transport.write(await call.read())

    asyncio.run(main())


def _execute(from_supervisor: socket.socket) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def body(data: bytes) -> None:
            transport.write(data)

        def begin(data: bytes) -> None:
            running.add(task := loop.create_task(body(data)))
            task.add_done_callback(running.discard)

        running: set[asyncio.Task[None]] = set()
        transport, _ = await loop.create_connection(lambda: _Socket(begin), sock=from_supervisor)
        await asyncio.sleep(PATIENCE_S)

    asyncio.run(main())


def _trigger(address: str, count: int, found: Any) -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), START_S)
            trigger = _stream(channel, "Trigger")
            awaited = _stream(channel, "Await")
            taken = []
            for _ in range(WARM_UP + count):
                began = time.perf_counter()
                await trigger.write(ids.new_id())
                await awaited.write(await trigger.read())
                await awaited.read()
                taken.append(time.perf_counter() - began)
            found.put(taken[WARM_UP:])

    asyncio.run(main())
