"""The link between supervisor and executor."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys

import pytest

from holdfast.v1.worker_service_pb2 import ConnectRequest, Renew
from holdfast_worker import link as links


def test_frames_survive_any_cut() -> None:
    rng = random.Random(7)
    frames = [rng.randbytes(rng.choice([0, 1, 3, 4, 5, 300])) for _ in range(200)]
    data = links.encode(frames)
    decoder = links.FrameDecoder()
    seen: list[bytes] = []
    at = 0
    while at < len(data):
        step = rng.randint(1, 40)
        seen += decoder.feed(data[at : at + step])
        at += step
    assert seen == frames
    assert decoder.pending_bytes == 0


def test_a_length_over_the_limit_is_refused_before_its_bytes_arrive() -> None:
    decoder = links.FrameDecoder(max_frame_bytes=10)
    with pytest.raises(links.LinkError, match="limit is 10"):
        decoder.feed((11).to_bytes(4, "big"))


def test_a_frame_over_the_limit_is_not_sent() -> None:
    with pytest.raises(links.LinkError, match="over the link's limit of 3 bytes"):
        links.encode([b"1234"], max_frame_bytes=3)


class End:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.arrived = asyncio.Event()

    def on_frames(self, frames: list[bytes]) -> None:
        self.frames += frames
        self.arrived.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.frames) < count:
                self.arrived.clear()
                await self.arrived.wait()


async def open_both() -> tuple[links.Link, End, links.Link, End]:
    left, right = links.make_pair()
    a, b = End(), End()
    return (
        await links.open_link(left, a.on_frames, a.closed.set_result),
        a,
        await links.open_link(right, b.on_frames, b.closed.set_result),
        b,
    )


def test_messages_travel_both_ways_and_the_end_is_told() -> None:
    async def scenario() -> None:
        left, a, right, b = await open_both()
        left.send(ConnectRequest(renew=Renew(nonce=1)), ConnectRequest(renew=Renew(nonce=2)))
        right.send(ConnectRequest(renew=Renew(nonce=3)))
        await b.wait_for(2)
        await a.wait_for(1)
        assert [ConnectRequest.FromString(f).renew.nonce for f in b.frames] == [1, 2]
        assert ConnectRequest.FromString(a.frames[0]).renew.nonce == 3
        left.close()
        assert await asyncio.wait_for(b.closed, 10) is None
        right.send(ConnectRequest())  # after the end: nothing happens

    asyncio.run(scenario())


def test_a_reader_that_lags_makes_the_link_full_and_drain_waits_for_it() -> None:
    async def scenario() -> None:
        left, _, right, b = await open_both()
        right.pause_reading()
        frame = bytes(256 * 1024)
        sent = 0
        while not left.is_full:
            left.send_frames([frame])
            sent += 1
        assert left.backlog_bytes > links.HIGH_WATER_BYTES
        waiting = asyncio.ensure_future(left.drain())
        await asyncio.sleep(0)
        assert not waiting.done()
        right.resume_reading()
        await asyncio.wait_for(waiting, 10)
        await b.wait_for(sent)
        left.close()
        right.close()

    asyncio.run(scenario())


def test_bad_bytes_end_the_link_with_an_error() -> None:
    async def scenario() -> None:
        raw, right = links.make_pair()
        b = End()
        await links.open_link(right, b.on_frames, b.closed.set_result)
        raw.sendall(b"\xff\xff\xff\xff rubbish")
        assert isinstance(await asyncio.wait_for(b.closed, 10), links.LinkError)
        raw.close()

    asyncio.run(scenario())


def test_an_end_inside_a_frame_is_an_error() -> None:
    async def scenario() -> None:
        raw, right = links.make_pair()
        b = End()
        await links.open_link(right, b.on_frames, b.closed.set_result)
        raw.sendall((10).to_bytes(4, "big") + b"half")
        raw.close()
        error = await asyncio.wait_for(b.closed, 10)
        assert isinstance(error, links.LinkError)
        assert "inside a frame" in str(error)

    asyncio.run(scenario())


STUBBORN = """
import os, sys
from holdfast_worker import lifeline, link
sock = link.inherited_socket(int(sys.argv[1]))
lifeline.leave_with_supervisor(sock, os.getppid())
sock.sendall(b"r")
while True: pass  # a body that never lets the event loop run
"""


def test_an_executor_leaves_when_the_link_ends_even_while_its_loop_is_blocked() -> None:
    ours, theirs = links.make_pair()
    with subprocess.Popen([sys.executable, "-c", STUBBORN, str(theirs.fileno())], pass_fds=[theirs.fileno()]) as child:
        theirs.close()
        assert ours.recv(1) == b"r"
        ours.close()
        assert child.wait(timeout=10) == 70


ORPHANING = """
import os, subprocess, sys
from holdfast_worker import link
ours, theirs = link.make_pair()
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(theirs.fileno())], pass_fds=[theirs.fileno()])
theirs.close()
ours.recv(1)
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_an_executor_dies_with_a_killed_supervisor() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHANING, STUBBORN], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        # The child inherits stdout: reading to its end means that both are gone.
        assert int(supervisor.stdout.read()) > 0
        assert supervisor.wait(timeout=10) == -9
