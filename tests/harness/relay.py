"""A relay on the connections between a scheduler and PostgreSQL, which falls silent when a test wants.

Both ends stay connected, and their kernels answer what keepalives ask, as with a server that is frozen, one whose disk
hangs, or a network device that has forgotten a connection.
"""

from __future__ import annotations

import asyncio
import contextlib

from harness.loop_thread import LoopThread

BEGINNING = 1_000
"""Bytes."""


class Relay:
    """Listens on a free port in a thread of its own until `close`."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._passing: list[_Passing] = []
        self._thread = LoopThread("relay")
        self._server = self._thread.call(asyncio.start_server(self._pass, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def silence(self, application: str | None = None) -> int:
        """Keep whatever comes from now on over all connections, or those of one application; returns how many."""

        async def hush() -> int:
            name = b"" if application is None else b"application_name\0" + application.encode() + b"\0"
            named = [one for one in self._passing if name in one.beginning]
            for one in named:
                one.open.clear()
            return len(named)

        return self._thread.call(hush())

    def release(self) -> None:
        """Pass on what was kept."""

        async def go_on() -> None:
            for one in self._passing:
                one.open.set()

        self._thread.call(go_on())

    def close(self) -> None:
        """Break everything and stop."""

        async def stop() -> None:
            self._server.close()
            for one in self._passing:
                one.end()

        self._thread.close(stop())

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
        passing = _Passing((reader, writer), upstream)
        self._passing.append(passing)
        await passing.run()


class _Passing:
    """One connection. Each direction ends by itself: a client that gives up is told nothing, nor is its server."""

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.beginning = b""
        """What the client said first; the name of its application is in it."""
        self.open = asyncio.Event()
        self.open.set()
        self._client, self._server = client, server

    async def run(self) -> None:
        await asyncio.gather(
            self._pump(self._client[0], self._server[1]),
            self._pump(self._server[0], self._client[1]),
        )

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                if source is self._client[0] and len(self.beginning) < BEGINNING:
                    self.beginning += data[:BEGINNING]
                await self.open.wait()
                target.write(data)
                await target.drain()
        await self.open.wait()
        target.close()

    def end(self) -> None:
        """Break it."""
        for _, writer in (self._client, self._server):
            writer.transport.abort()
