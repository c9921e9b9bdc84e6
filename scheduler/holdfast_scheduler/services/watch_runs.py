"""WatchRuns and WaitRun: the state of runs as it changes.

A stream shows present states, each at most as often as it can be read and sent: what changes several times in between
is shown once. The engine rings for what this replica commits; a look each second finds the rest, and new members of a
tag.

A cursor holds an instant by the database's clock: every end before it was shown (and, for the first pass over many
runs, the instant of its begin). It is safe to go on from at any replica, for `reads.settled_until` never passes an end
that is not visible yet. What is open is shown again after a break, and so are the ends since that instant: at least
once each, never lost.

Of a tag with many runs the newest `watched_runs` are followed state by state; of all others the ends are shown.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from typing import Final

from holdfast.v1.run_pb2 import Run
from holdfast.v1.run_service_pb2 import WatchRunsRequest, WatchRunsResponse
from holdfast_scheduler import ids, reads
from holdfast_scheduler.convert import check_text, id_from, namespace_from
from holdfast_scheduler.errors import RefusedError, ShuttingDownError, invalid, not_found
from holdfast_scheduler.messages import run_message
from holdfast_scheduler.model import RunEnd, is_final
from holdfast_scheduler.services.seam import Engine

_READ_AT_ONCE: Final = 16  # runs, each with an output and metadata of up to 1.25 MiB
_ENDS_AT_ONCE: Final = 1_000


class Bell:
    """A `watching.Sink` that wakes its owner."""

    def __init__(self) -> None:
        self.rung: set[bytes] = set()
        self.is_stopped = False
        self._event = asyncio.Event()

    def ended(self, end: RunEnd) -> None:
        """A run ended."""
        self.changed(end.run_id)

    def noticed(self, run_id: bytes, size: int) -> None:
        """A run was found to have ended."""
        self.changed(run_id)

    def changed(self, run_id: bytes) -> None:
        """A run changed."""
        self.rung.add(run_id)
        self._event.set()

    def stopped(self) -> None:
        """The scheduler stops."""
        self.is_stopped = True
        self._event.set()

    async def wait(self, timeout: float) -> set[bytes]:
        """The runs that rang since the last call; empty after `timeout` seconds. Raises: ShuttingDownError."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            pass
        if self.is_stopped:
            raise ShuttingDownError()
        self._event.clear()
        rung, self.rung = self.rung, set()
        return rung


async def wait_run(engine: Engine, namespace: str, run_id: bytes, timeout: float) -> Run:
    """The run once it has ended, or as it is after `timeout` seconds. Raises: RequestError."""
    deadline = asyncio.get_running_loop().time() + timeout
    bell = Bell()
    refuse_when_stopped(engine)
    engine.watchers.add(namespace, run_id, bell)
    try:
        while True:
            row = await engine.read(reads.run_row, namespace, run_id)
            if row is None:
                raise not_found("run", ids.run_text(run_id))
            left = deadline - asyncio.get_running_loop().time()
            if is_final(row.status) or left <= 0:
                return run_message(namespace, row)
            await bell.wait(left)
    finally:
        engine.watchers.discard(namespace, run_id, bell)


def refuse_when_stopped(engine: Engine) -> None:
    """Raises ShuttingDownError when no news will come any more."""
    if engine.watchers.is_stopped:
        raise ShuttingDownError()


class RunWatch:
    """One WatchRuns stream."""

    def __init__(self, engine: Engine, request: WatchRunsRequest) -> None:
        limits = engine.settings.limits
        self._engine = engine
        self._most = limits.watched_runs
        self._namespace = namespace_from(request.namespace, limits)
        self._kind = request.WhichOneof("target")
        self._run_id = self._batch_id = b""
        self._tag = ""
        if self._kind == "run_id":
            self._run_id = id_from("run_id", ids.RUN, request.run_id)
        elif self._kind == "tag":
            self._tag = check_text("tag", request.tag, limits)
        elif self._kind == "batch_id":
            self._batch_id = id_from("batch_id", ids.BATCH, request.batch_id)
        else:
            raise invalid("target", "is not set; name a run_id, a tag or a batch_id")
        self._resumed_from, self._ends_from, self._seen_state = _parse_cursor(request.cursor)
        self._shown_until = self._resumed_from
        self._bell = Bell()
        self._watched: set[bytes] = set()
        self._over: set[bytes] = set()  # shown in their final status
        self._stamps: dict[bytes, object] = {}
        self._states: dict[bytes, object] = {}

    async def responses(self) -> AsyncIterator[WatchRunsResponse]:
        """The changes. Ends when every run has ended; a tag's never ends by itself. Raises: RequestError."""
        refuse_when_stopped(self._engine)
        self._engine.watchers.enter(self._bell)
        look = self._engine.settings.look_interval
        rung: set[bytes] = set()
        try:
            while True:
                members = await self._members()
                for run_id in members:
                    if run_id not in self._watched and run_id not in self._over:
                        self._watched.add(run_id)
                        self._engine.watchers.add(self._namespace, run_id, self._bell)
                async for response in self._changes(members, rung):
                    yield response
                if self._kind != "tag" and self._over.issuperset(members):
                    return
                rung = await self._bell.wait(look)
        finally:
            self._engine.watchers.leave(self._bell)
            for run_id in self._watched:
                self._engine.watchers.discard(self._namespace, run_id, self._bell)

    async def _members(self) -> list[bytes]:
        if self._kind == "run_id":
            return [self._run_id]
        if self._kind == "tag":
            return await self._engine.read(reads.tagged_ids, self._namespace, self._tag, self._most)
        members = await self._engine.read(reads.batch_members, self._namespace, self._batch_id)
        if members is None:
            raise not_found("batch", ids.to_text(ids.BATCH, self._batch_id))
        return members

    def _forget_all_but(self, members: Iterable[bytes]) -> None:
        """A tag may be given to new runs forever: what is no longer among the newest is not followed any more."""
        kept = set(members)
        for run_id in self._watched - kept:
            self._engine.watchers.discard(self._namespace, run_id, self._bell)
        self._watched &= kept
        self._over &= kept
        for known in (self._stamps, self._states):
            for run_id in known.keys() - kept:
                del known[run_id]

    async def _changes(self, members: list[bytes], rung: set[bytes]) -> AsyncIterator[WatchRunsResponse]:
        asked = [run_id for run_id in members if run_id not in self._over]
        stamps = await self._engine.read(reads.stamps, self._namespace, asked)
        if self._kind == "run_id" and asked and not stamps.by_run:
            raise not_found("run", ids.run_text(self._run_id))
        if not self._ends_from:
            self._ends_from = stamps.until
        if self._kind == "batch_id":
            self._over.update(one for one in asked if one not in stamps.by_run)  # deleted long after its end
        known = self._stamps
        stale = [one for one in asked if one in rung or known.get(one) != stamps.by_run.get(one)]
        known.update(stamps.by_run)
        async for response in self._shown(stale):
            yield response
        followed = set(members)
        if self._kind == "tag" and len(members) == self._most:
            async for response in self._ends_of_others(followed):
                yield response
        self._forget_all_but(followed)
        # Only now: a client that resumes in the middle of a pass must see the rest of it.
        self._shown_until = self._ends_from = max(self._ends_from, stamps.until)

    async def _ends_of_others(self, followed: set[bytes]) -> AsyncIterator[WatchRunsResponse]:
        """The ends of runs with the tag that are too many to be followed. What was shown since the cursor's instant is
        added to `followed`, and is not shown again."""
        place = (self._ends_from, b"")
        while True:
            ends = await self._engine.read(reads.tagged_ends, self._namespace, self._tag, place, _ENDS_AT_ONCE)
            news = [run_id for _, run_id in ends if run_id not in self._over]
            followed.update(run_id for _, run_id in ends)
            async for response in self._shown(news):
                yield response
            if len(ends) < _ENDS_AT_ONCE:
                return
            place = ends[-1]

    async def _shown(self, stale: list[bytes]) -> AsyncIterator[WatchRunsResponse]:
        """The states of runs that may have changed, but those that were shown."""
        for at in range(0, len(stale), _READ_AT_ONCE):
            rows = await self._engine.read(reads.run_rows, self._namespace, stale[at : at + _READ_AT_ONCE])
            for run_id, row in rows.items():
                run = run_message(self._namespace, row)
                state = hashlib.sha256(run.SerializeToString(deterministic=True)).hexdigest()[:16]
                if is_final(run.status):
                    self._over.add(run_id)
                    self._watched.discard(run_id)
                    self._engine.watchers.discard(self._namespace, run_id, self._bell)
                    if self._kind != "run_id" and (row.ended_at or 0) < self._resumed_from:
                        continue  # was shown before the client resumed
                if self._states.get(run_id) == state or (self._kind == "run_id" and state == self._seen_state):
                    continue
                self._states[run_id] = state
                yield WatchRunsResponse(run=run, cursor=f"{self._shown_until}.{self._ends_from}.{state}")


def _parse_cursor(cursor: str) -> tuple[int, int, str]:
    """The instant before which all ends were shown, the one from which ends that are not followed are told, and the
    last state."""
    if not cursor:
        return 0, 0, ""
    until, _, rest = cursor.partition(".")
    ends_from, _, state = rest.partition(".")
    if not (_is_instant(until) and _is_instant(ends_from) and state.isalnum() and len(state) == 16):
        raise _bad_cursor()
    return int(until), int(ends_from), state


def _is_instant(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _bad_cursor() -> RefusedError:
    return invalid("cursor", "is not a cursor of a WatchRunsResponse; leave it empty to begin with the present state")
