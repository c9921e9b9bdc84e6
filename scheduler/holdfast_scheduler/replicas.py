"""What schedulers that share one database tell each other.

The database is the only truth. A note says no more than "look": which sessions have news, in which namespace runs were
queued, where runs ended. Whatever it says can be read from rows, so that a note which is lost costs no more than the
second until the next look; for an end, two.
"""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from holdfast_scheduler.database import Database
from holdfast_scheduler.model import Left

log = logging.getLogger("holdfast.scheduler")

NOTE_LENGTH: Final = 7_000
"""Characters of a note, which are ASCII; PostgreSQL takes 8,000 bytes."""
NAMED_LENGTH: Final = 2_000
"""Characters of a line that names what one commit left. Beyond, the line says only that there is something."""
ENDS_NAMED: Final = 250
"""Ended runs that one line names."""
LINGER: Final = 5
"""Looks for which a scheduler that is alone acts as if it were not."""


class Replicas:
    """Sends and hears notes. Used on the event loop's thread only."""

    def __init__(
        self,
        database: Database,
        replica: bytes,
        *,
        on_session: Callable[[str, bytes], None],
        on_queued: Callable[[str], None],
        on_left: Callable[[str, Left], None],
        on_ended: Callable[[str, list[bytes]], None],
    ) -> None:
        self._database = database
        self._me = replica.hex()
        self._on_session = on_session
        self._on_queued = on_queued
        self._on_left = on_left
        self._on_ended = on_ended
        self._waiting: dict[str, None] = {}
        self._sending = False
        self._thread = ThreadPoolExecutor(1, "holdfast-notes")
        self.others = False
        """Whether other schedulers share the database, or did a moment ago; judged by `count`."""
        self._alone = 0

    def start(self) -> None:
        """Listen, where the database can be shared."""
        if self._database.is_shared:
            loop = asyncio.get_running_loop()

            def heard(note: str) -> None:
                loop.call_soon_threadsafe(self._heard, note)

            self._database.listen(heard)

    async def count(self) -> None:
        """Find out whether there are others. One that has just gone counts a few times more: nobody may have heard what
        its last commits left, so it is to be looked for."""
        if self._database.is_shared:
            loop = asyncio.get_running_loop()
            is_alone = await loop.run_in_executor(self._thread, self._database.listeners) <= 1
            self._alone = self._alone + 1 if is_alone else 0
            self.others = not is_alone or (self.others and self._alone < LINGER)

    def session(self, namespace: str, session: bytes) -> None:
        """A session that is connected elsewhere has news."""
        self._send("s", namespace, session.hex())

    def left(self, namespace: str, left: Left) -> None:
        """Runs were queued that this replica did not start, or slots of limited queues became free."""
        if not self.others or not (left.places or left.opened or left.bodies):
            return
        named = [namespace, sorted(left.places), sorted(left.opened), left.bodies]
        if len(json.dumps(named)) <= NAMED_LENGTH:
            self._send("l", *named)
        else:
            self._send("q", namespace)  # what is too much to name is looked for

    def ended(self, namespace: str, run_ids: Sequence[bytes]) -> None:
        """Runs ended that somebody may await elsewhere. They are named: whoever hears of an end and does not know whose
        would have to look after every run that it watches, at every commit of the others."""
        if not self.others:
            return
        room = NOTE_LENGTH - len(self._me) - len(json.dumps(["e", namespace, ""])) - 1
        most = min(ENDS_NAMED, room * 3 // 4 // 16)  # a namespace of 256 characters leaves room for more than a hundred
        for at in range(0, len(run_ids), most):
            self._send("e", namespace, b64encode(b"".join(run_ids[at : at + most])).decode())

    def _send(self, *line: Any) -> None:
        if not self.others:
            return
        self._waiting[json.dumps(line)] = None  # in ASCII and without line breaks, whatever names hold
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        """Send what waits; what comes while a note is on its way goes with the next one."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                lines, self._waiting = list(self._waiting), {}
                notes = [self._me]
                for line in lines:
                    if len(notes[-1]) + len(line) > NOTE_LENGTH:
                        notes.append(self._me)
                    notes[-1] += "\n" + line
                await loop.run_in_executor(self._thread, self._database.send_notes, notes)
        finally:
            self._sending = False

    def _heard(self, note: str) -> None:
        sender, *lines = note.split("\n")
        if sender == self._me:
            return
        self.others, self._alone = True, 0
        for line in lines:
            try:
                self._take(*json.loads(line))
            except (ValueError, TypeError, IndexError) as error:
                # Of a scheduler of another version: its other lines count all the same, and the look covers this one.
                log.debug("note not understood line=%r error=%s", line, error)

    def _take(self, kind: str, namespace: str, *rest: Any) -> None:
        if kind == "s":
            self._on_session(namespace, bytes.fromhex(rest[0]))
        elif kind == "q":
            self._on_queued(namespace)
        elif kind == "l":
            places, opened, bodies = rest
            named = {(queue, lane, tuple(of)) for queue, lane, of in places}
            self._on_left(namespace, Left(named, bodies, set(opened)))
        elif kind == "e":
            joined = b64decode(rest[0])
            self._on_ended(namespace, [joined[at : at + 16] for at in range(0, len(joined), 16)])

    def stop(self) -> None:
        """Send nothing more."""
        self.others = False
        self._thread.shutdown(wait=False, cancel_futures=True)
