"""BulkRuns: an action on all runs that match a filter, page by page.

The client closes the stream to stop it, and sends the last page token to go on. A replay's id follows from the
operation's and the old run's, so that a page which is done again replays nothing twice. What is triggered after the
operation began, its own replays too, is left alone.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

from holdfast.v1.run_service_pb2 import (
    BULK_ACTION_CANCEL,
    BULK_ACTION_REPLAY,
    BulkAction,
    BulkRunsRequest,
    BulkRunsResponse,
)
from holdfast_scheduler import ids, reads
from holdfast_scheduler.convert import id_from, namespace_from
from holdfast_scheduler.database import clock_of
from holdfast_scheduler.errors import INVALID_ARGUMENT, RefusedError, invalid
from holdfast_scheduler.filter import RunFilter, parse_run_filter
from holdfast_scheduler.listing import Bounds, page_of_ids
from holdfast_scheduler.model import CancelRun, Handle, ItemFault, TriggerRuns
from holdfast_scheduler.services.keys import key_holder
from holdfast_scheduler.services.paging import page_token, place_from
from holdfast_scheduler.services.replaying import replay_of
from holdfast_scheduler.services.seam import Engine

AT_ONCE: Final = 100
"""Runs that are acted on between two reports of progress, and in one commit."""
PAYLOADS_AT_ONCE: Final = 4 << 20
"""Bytes of payloads that are replayed in one commit."""

_SO_FAR: Final = struct.Struct(">qQQ")  # when it began, acted, skipped; the place in the list follows


class BulkOperation:
    """One BulkRuns stream."""

    def __init__(self, engine: Engine, request: BulkRunsRequest) -> None:
        limits = engine.settings.limits
        self._engine = engine
        self._limits = limits
        self._namespace = namespace_from(request.namespace, limits)
        if request.action not in (BULK_ACTION_CANCEL, BULK_ACTION_REPLAY):
            raise invalid("action", "is not set; write CANCEL or REPLAY")
        self._act = self._cancel if request.action == BULK_ACTION_CANCEL else self._replay
        self._wanted = parse_run_filter(request.filter, limits.filter_length)
        if self._wanted == RunFilter():
            message = "filter: is empty; name at least one condition, so that not every run is meant by accident"
            raise RefusedError(ItemFault(INVALID_ARGUMENT, "INVALID_FILTER", message, {"field": "filter"}))
        text = request.operation_id
        self._operation = id_from("operation_id", ids.BULK, text) if text else ids.new_id()
        if request.page_token and not text:
            raise invalid("page_token", "goes on with an operation; send its operation_id too")
        self._belongs_to = ("bulk", BulkAction.Name(request.action), self._namespace, request.filter, text)
        self._place: bytes | None = None
        self._began_at: int | None = None  # by the database's clock
        self._acted = self._skipped = 0
        if so_far := place_from(request.page_token, *self._belongs_to):
            self._began_at, self._acted, self._skipped = _SO_FAR.unpack_from(so_far)
            self._place = so_far[_SO_FAR.size :]

    async def responses(self) -> AsyncIterator[BulkRunsResponse]:
        """Progress after each page; the last one is done. Raises: RequestError."""
        limits = self._limits
        bounds = Bounds(AT_ONCE, limits.scanned_runs, 1 << 62, limits.scanned_metadata_bytes)
        only = await key_holder(self._engine, self._namespace, self._wanted)
        is_done = self._wanted.key is not None and only is None
        if self._began_at is None:
            self._began_at = await self._engine.read(clock_of)
        wanted = replace(self._wanted, made_until=self._began_at)
        while not is_done:
            page = await self._engine.read(page_of_ids, self._namespace, wanted, self._place, bounds, only)
            done = await self._act(page.ids) if page.ids else 0
            self._acted += done
            self._skipped += len(page.ids) - done
            if page.next_place is None:
                break
            self._place = page.next_place
            so_far = _SO_FAR.pack(self._began_at, self._acted, self._skipped) + self._place
            yield self._progress(page_token(so_far, *self._belongs_to))
        yield self._progress("")

    def _progress(self, token: str) -> BulkRunsResponse:
        return BulkRunsResponse(acted=self._acted, skipped=self._skipped, done=not token, page_token=token)

    async def _cancel(self, run_ids: Sequence[bytes]) -> int:
        commands = [CancelRun(self._namespace, run_id) for run_id in run_ids]
        outcomes = await asyncio.gather(*[self._engine.do(command) for command in commands])
        return sum(outcome is True for outcome in outcomes)

    async def _replay(self, run_ids: Sequence[bytes]) -> int:
        done = 0
        rest = list(run_ids)
        while rest:
            sources = await self._engine.read(reads.replay_sources, self._namespace, rest, PAYLOADS_AT_ONCE)
            if not sources:
                break  # deleted meanwhile
            rest = rest[rest.index(sources[-1].run_id) + 1 :]
            runs = [
                replay_of(source, ids.run_text(ids.derived_id(self._operation, source.run_id)), self._limits)
                for source in sources
            ]
            fine = [run for run in runs if run.error is None]
            if fine:
                outcomes = await self._engine.do(TriggerRuns(self._namespace, fine))
                done += sum(isinstance(outcome, Handle) for outcome in outcomes)
        return done
