"""What schedulers tell each other arrives as it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from holdfast_scheduler.model import Left
from holdfast_scheduler.replicas import LINGER, Replicas


class Wire:
    """A shared database as far as notes go."""

    is_shared = True

    def __init__(self) -> None:
        self.ears: list[Callable[[str], None]] = []
        self.count = 2

    def listeners(self) -> int:
        return self.count

    def listen(self, heard: Callable[[str], None]) -> None:
        self.ears.append(heard)

    def send_notes(self, notes: Iterable[str]) -> None:
        for note in notes:
            for ear in self.ears:
                ear(note)


async def _told(tell: Callable[[Replicas], None]) -> list[Any]:
    wire: Any = Wire()
    heard: asyncio.Queue[list[Any]] = asyncio.Queue()

    def take(*news: Any) -> None:
        heard.put_nowait(list(news))

    def one(name: bytes) -> Replicas:
        return Replicas(wire, name, on_session=take, on_queued=take, on_left=take, on_ended=take)

    sender, receiver = one(b"a"), one(b"b")
    receiver.start()
    await sender.count()
    tell(sender)
    try:
        async with asyncio.timeout(10):
            return await heard.get()
    finally:
        sender.stop()
        receiver.stop()


async def test_one_that_has_just_gone_is_looked_after() -> None:
    """What its last commits left it may not have told any more."""
    wire: Any = Wire()
    replicas = Replicas(wire, b"a", on_session=print, on_queued=print, on_left=print, on_ended=print)
    seen = []
    for wire.count in (1, 2, *[1] * (LINGER + 1), 2, 1):
        await replicas.count()
        seen.append(replicas.others)
    assert seen == [False, True, *[True] * (LINGER - 1), False, False, True, True]
    replicas.stop()


async def test_what_a_commit_left() -> None:
    places = {("exports", "tenant 1", ("export", "", False)), ("exports", "", ("export", "v2", True))}
    left = Left(places, True, {"exports", "mails"})
    namespace, told = await _told(lambda replicas: replicas.left("default", left))
    assert namespace == "default"
    assert (told.places, told.bodies, told.opened) == (left.places, left.bodies, left.opened)


async def test_too_much_to_name_is_looked_for() -> None:
    left = Left({("exports", f"tenant {number}", ("export", "", False)) for number in range(1000)})
    assert await _told(lambda replicas: replicas.left("default", left)) == ["default"]


async def test_a_session_and_an_end() -> None:
    assert await _told(lambda replicas: replicas.session("two words", b"\x01\x02")) == ["two words", b"\x01\x02"]
    ended = [bytes([number] * 16) for number in range(3)]
    assert await _told(lambda replicas: replicas.ended("two words", ended)) == ["two words", ended]


async def test_names_may_hold_anything() -> None:
    session = b"\x01" * 16
    for namespace in ("line\nbreak", "é" * 200, "😀" * 200, 'quotes "'):
        told = await _told(lambda replicas, named=namespace: replicas.session(named, session))  # type: ignore[misc]
        assert told == [namespace, session]


async def test_no_note_is_longer_than_postgresql_takes() -> None:
    wire: Any = Wire()
    heard: list[bytes] = []
    lengths: list[int] = []

    def hear(_namespace: str, run_ids: list[bytes]) -> None:
        heard.extend(run_ids)

    names = b"a" * 16, b"b" * 16
    both = [Replicas(wire, one, on_session=print, on_queued=print, on_left=print, on_ended=hear) for one in names]
    both[1].start()
    wire.ears.append(lambda note: lengths.append(len(note)))
    await both[0].count()
    ended = [number.to_bytes(16, "big") for number in range(1_000)]
    for namespace in ("default", "😀" * 256):
        both[0].ended(namespace, ended)
    async with asyncio.timeout(10):
        while len(heard) < 2_000:
            await asyncio.sleep(0.01)
    assert sorted(heard) == sorted(ended * 2)
    assert max(lengths) < 8_000
    for one in both:
        one.stop()


async def test_a_line_that_is_not_understood_costs_no_other() -> None:
    def tell(replicas: Replicas) -> None:
        replicas._waiting['["e", "default"]'] = None
        replicas._waiting["e default"] = None
        replicas._waiting['["of a later version", "default", {}]'] = None
        replicas.session("default", b"\x02" * 16)

    assert await _told(tell) == ["default", b"\x02" * 16]
