"""The event loop that knows whose callback is whose."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast_worker import creation_order
from holdfast_worker.gate import SPIN_TURNS, Gate, GatedEventLoop


@pytest.fixture
def loop() -> Iterator[GatedEventLoop]:
    loop = GatedEventLoop()
    yield loop
    loop.close()


class Watched:
    """A body that is only watched."""

    def __init__(self, loop: GatedEventLoop) -> None:
        self.rests = 0
        self.knocks = 0
        self.rested = asyncio.Event()
        self.gate = Gate(loop, self._rest, self._knock)

    def _rest(self) -> None:
        self.rests += 1
        self.rested.set()

    def _knock(self) -> None:
        self.knocks += 1

    def start(self, coroutine: Any) -> asyncio.Task[Any]:
        context = contextvars.copy_context()
        self.gate.own(context)
        return self.gate.start(coroutine, context)


def turns(loop: GatedEventLoop, count: int = 5) -> None:
    async def some() -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    loop.run_until_complete(some())


def test_rest_is_told_once_nothing_is_ready(loop: GatedEventLoop) -> None:
    body = Watched(loop)
    seen: list[int] = []

    async def code() -> None:
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))
        seen.append(body.rests)
        await loop.create_future()

    body.start(code())
    turns(loop, 10)
    assert seen == [0]
    assert body.rests == 1
    assert body.gate.ready == 0


def test_two_bodies_rest_apart(loop: GatedEventLoop) -> None:
    quiet, busy = Watched(loop), Watched(loop)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def block() -> None:
        await loop.create_future()

    task = busy.start(spin())
    quiet.start(block())
    turns(loop, 10)
    assert (quiet.rests, busy.rests) == (1, 0)
    turns(loop, SPIN_TURNS + 10)
    assert busy.rests == 1
    task.cancel()
    turns(loop)


def test_closed_gate_holds_and_opens_in_order(loop: GatedEventLoop) -> None:
    body = Watched(loop)
    seen: list[int] = []
    futures = [loop.create_future() for _ in range(3)]

    async def wait_for(number: int) -> None:
        await futures[number]
        seen.append(number)

    for number in range(3):
        body.start(wait_for(number))
    turns(loop)
    body.gate.close()
    for number in (2, 0, 1):
        futures[number].set_result(None)
    turns(loop)
    assert seen == []
    assert body.knocks == 3
    assert body.gate.has_held
    body.gate.open()
    turns(loop)
    assert seen == [2, 0, 1]
    assert body.gate.ready == 0


def test_timers_are_held_and_counted(loop: GatedEventLoop) -> None:
    body = Watched(loop)
    seen: list[str] = []

    async def code() -> None:
        kept = loop.call_later(0, seen.append, "timer")
        loop.call_later(0, seen.append, "cancelled").cancel()
        assert body.gate.timers == 1
        late = loop.call_later(3600, seen.append, "late")
        body.gate.close()
        await asyncio.sleep(0.001)
        late.cancel()
        assert kept

    task = body.start(code())
    loop.run_until_complete(asyncio.sleep(0.01))
    assert seen == []
    assert not task.done()
    body.gate.open()
    loop.run_until_complete(asyncio.wait_for(task, 10))
    turns(loop)
    assert seen == ["timer"]
    assert (body.gate.timers, body.gate.ready) == (0, 0)


def test_held_timer_can_be_cancelled(loop: GatedEventLoop) -> None:
    body = Watched(loop)
    handles: list[asyncio.TimerHandle] = []

    async def code() -> None:
        handles.append(loop.call_later(0, pytest.fail, "it was cancelled"))
        body.gate.close()
        await loop.create_future()

    body.start(code())
    loop.run_until_complete(asyncio.sleep(0.01))
    handles[0].cancel()
    assert not body.gate.has_held
    body.gate.open()
    turns(loop)
    assert (body.gate.timers, body.gate.ready) == (0, 0)


def test_cancelled_ready_callback_is_not_waited_for(loop: GatedEventLoop) -> None:
    body = Watched(loop)

    async def code() -> None:
        loop.call_soon(pytest.fail).cancel()
        await loop.create_future()

    body.start(code())
    turns(loop)
    assert body.gate.ready == 0
    assert body.rests == 1


def test_what_a_thread_sends_belongs_to_the_body(loop: GatedEventLoop) -> None:
    body = Watched(loop)
    seen: list[int] = []

    async def code() -> None:
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(loop.call_soon_threadsafe, seen.append, 1))
        thread.start()
        thread.join()
        body.gate.close()
        await loop.create_future()

    body.start(code())
    turns(loop)
    assert seen == []
    body.gate.open()
    turns(loop)
    assert seen == [1]


def test_thread_results_wake_only_open_bodies(loop: GatedEventLoop) -> None:
    body = Watched(loop)
    go = threading.Event()
    task = body.start(_in_thread(go))
    turns(loop)
    body.gate.close()
    go.set()
    deadline = loop.time() + 10
    while not body.knocks and loop.time() < deadline:
        turns(loop, 1)
    assert not task.done()
    body.gate.open()
    assert loop.run_until_complete(task) == 5


async def _in_thread(go: threading.Event) -> int:
    def work() -> int:
        go.wait(10)
        return 5

    return await asyncio.to_thread(work)


def test_sockets_are_read_for_closed_bodies_too(loop: GatedEventLoop) -> None:
    """A connection may serve several bodies: what the transport does is not held, what it wakes is."""
    body = Watched(loop)
    received: list[bytes] = []
    connected = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await connected.wait()
        writer.write(b"hello")
        writer.close()

    class Client(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.append(data)

    async def code(port: int) -> None:
        await loop.create_connection(Client, "127.0.0.1", port)
        await loop.create_future()

    async def scene() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        body.start(code(server.sockets[0].getsockname()[1]))
        await asyncio.wait_for(body.rested.wait(), 10)
        for _ in range(200):  # connecting takes several rests
            await asyncio.sleep(0.001)
            if not body.gate.timers and len(asyncio.all_tasks()) > 2:
                break
        body.gate.close()
        connected.set()
        async with asyncio.timeout(10):
            while not received:
                await asyncio.sleep(0.001)
        server.close()

    loop.run_until_complete(scene())
    assert received == [b"hello"]
    body.gate.open()
    turns(loop)


def test_abandoned_tasks_are_not_finalized(loop: GatedEventLoop) -> None:
    body = Watched(loop)
    ran: list[str] = []

    async def code() -> None:
        try:
            await loop.create_future()
        finally:
            ran.append("finally")

    body.start(code())
    turns(loop)
    body.gate.close()
    gc.collect()
    assert ran == []
    for task in body.gate.tasks:
        task.cancel()
    turns(loop)
    assert ran == []
    body.gate.open()
    turns(loop)


def test_branches_are_named_by_order_of_creation(loop: GatedEventLoop) -> None:
    body = Watched(loop)
    names: dict[str, str] = {}

    async def leaf(label: str) -> None:
        await asyncio.sleep(0)
        names[label] = body.gate.current_branch().name

    async def inner(label: str) -> None:
        await asyncio.gather(leaf(f"{label}1"), leaf(f"{label}2"))
        await leaf(label)

    async def code() -> None:
        await asyncio.gather(inner("a"), inner("b"))
        async with asyncio.TaskGroup() as group:
            group.create_task(leaf("c"), context=contextvars.copy_context())
        names["main"] = body.gate.current_branch().name

    loop.run_until_complete(body.start(code()))
    assert names == {
        "a": "0.0", "a1": "0.0.0", "a2": "0.0.1",
        "b": "0.1", "b1": "0.1.0", "b2": "0.1.1",
        "c": "0.2", "main": "0",
    }  # fmt: skip
    body.gate.prune()
    assert not body.gate.tasks


def test_as_completed_makes_its_tasks_in_the_order_of_its_arguments(loop: GatedEventLoop) -> None:
    creation_order.install()
    body = Watched(loop)
    names: dict[int, str] = {}

    async def leaf(number: int) -> None:
        names[number] = body.gate.current_branch().name

    async def code() -> None:
        for done in asyncio.as_completed([leaf(number) for number in range(50)]):
            await done

    loop.run_until_complete(body.start(code()))
    assert names == {number: f"0.{number}" for number in range(50)}


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with Python 3.12")
def test_eager_tasks_have_their_branch(loop: GatedEventLoop) -> None:
    body = Watched(loop)
    names: list[str] = []
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]

    async def leaf() -> None:
        names.append(body.gate.current_branch().name)

    async def code() -> None:
        await asyncio.gather(leaf(), leaf())

    loop.run_until_complete(body.start(code()))
    assert names == ["0.0", "0.1"]


def test_system_exit_in_a_task_does_not_end_the_loop(loop: GatedEventLoop) -> None:
    body = Watched(loop)

    async def leave() -> None:
        raise SystemExit(3)

    task = body.start(leave())
    turns(loop)
    assert isinstance(task.exception(), SystemExit)
