"""Cancel or replay all runs that meet some conditions.

done = await bulk.cancel(tag="import-7")                      # until all are done
async for progress in bulk.replay(status="FAILED", task="export"):
    print(progress.acted)                                     # page by page; leave the loop to stop
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from typing import Unpack

from holdfast import client, filters, ids, streaming
from holdfast.errors import InvalidArgumentError
from holdfast.filters import Conditions
from holdfast.v1 import run_service_pb2
from holdfast.v1.run_service_pb2 import BulkAction, BulkRunsRequest, BulkRunsResponse

__all__ = ["BulkOperation", "BulkProgress", "cancel", "replay"]


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """How far an operation is."""

    acted: int
    """Runs acted on so far."""
    skipped: int
    """Runs that met the conditions and did not allow it: those that had ended, for `cancel`."""
    done: bool
    """Whether this is the end."""


class BulkOperation:
    """An operation on many runs: await it for its end, or iterate over its progress. It begins when it is used."""

    def __init__(self, action: BulkAction, conditions: Conditions) -> None:
        self._action = action
        self._filter = filters.of_runs(conditions)
        if not self._filter:
            raise InvalidArgumentError("bulk: no condition is given, so every run would be meant; name at least one.")
        self._progress = self._steps()

    def __aiter__(self) -> BulkOperation:
        return self

    async def __anext__(self) -> BulkProgress:
        return await anext(self._progress)

    def __await__(self) -> Generator[object, None, BulkProgress]:
        return self._to_its_end().__await__()

    async def aclose(self) -> None:
        """Stop it: what is done stays done."""
        await self._progress.aclose()  # type: ignore[attr-defined]  # it is an asynchronous generator

    async def _to_its_end(self) -> BulkProgress:
        last = BulkProgress(0, 0, True)
        async for progress in self:
            last = progress
        return last

    async def _steps(self) -> AsyncIterator[BulkProgress]:
        asked = client.current()
        request = BulkRunsRequest(
            namespace=asked.settings.namespace,
            action=self._action,
            filter=self._filter,
            operation_id=ids.text(ids.BULK, ids.new()),
        )

        def go_on(response: BulkRunsResponse) -> None:
            request.page_token = response.page_token

        async for response in streaming.responses(asked, lambda endpoint: endpoint.runs.BulkRuns, request, go_on):
            yield BulkProgress(response.acted, response.skipped, response.done)


def cancel(**conditions: Unpack[Conditions]) -> BulkOperation:
    """Cancel all runs that meet the conditions and have not ended; newest first.

    Raises: InvalidArgumentError; while it is used RequestError, SchedulerUnavailableError.
    """
    return BulkOperation(run_service_pb2.BULK_ACTION_CANCEL, conditions)


def replay(**conditions: Unpack[Conditions]) -> BulkOperation:
    """Make a new run with the payload and options of each run that meets the conditions; newest first.

    A break of the connection replays nothing twice. Raises: as `cancel`.
    """
    return BulkOperation(run_service_pb2.BULK_ACTION_REPLAY, conditions)
