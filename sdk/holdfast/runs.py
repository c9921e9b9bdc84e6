"""Runs: look at them, cancel, replay, reschedule and watch them.

Inside a run these are plain requests, not durable calls: wrap them in a `step` to have their result recorded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast import client, durations, filters, ids, options, payloads, streaming, texts
from holdfast.durations import Duration
from holdfast.errors import InvalidArgumentError
from holdfast.filters import Conditions
from holdfast.handles import RunHandle
from holdfast.run import Attempt, CheckpointView, Run, of_message
from holdfast.statuses import RunStatus
from holdfast.v1 import run_service_pb2
from holdfast.v1.run_service_pb2 import (
    CancelRunRequest,
    ExplainRunRequest,
    GetRunRequest,
    ListRunLogsRequest,
    ListRunsRequest,
    LogRecord,
    ReplayRunRequest,
    RescheduleRunRequest,
    WatchRunsRequest,
    WatchRunsResponse,
)

__all__ = [
    "Attempt",
    "CheckpointView",
    "Conditions",
    "Explanation",
    "LogLine",
    "LogPage",
    "Run",
    "RunPage",
    "RunStatus",
    "Subscription",
    "cancel",
    "explain",
    "iterate",
    "list",
    "logs",
    "replay",
    "reschedule",
    "retrieve",
    "subscribe",
]

_KEEP: Any = object()


@dataclass(frozen=True, slots=True)
class RunPage:
    """A page of runs, newest first."""

    runs: tuple[Run, ...]
    next_page_token: str
    """Empty on the last page; otherwise the `page_token` of the next."""

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a run's log."""

    at: datetime
    """When it was written, by the worker's clock."""
    level: str
    """debug, info, warning or error."""
    message: str
    fields: Mapping[str, Any]
    attempt: int
    """The attempt that wrote it."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of a run's log, oldest line first."""

    lines: tuple[LogLine, ...]
    next_page_token: str
    """Empty on the last page; otherwise the `page_token` of the next."""

    def __iter__(self) -> Iterator[LogLine]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a run does not progress, and how it has spent its life so far: the durations add up to it."""

    sentence: str
    queued: timedelta
    """Waiting for a slot."""
    executing: timedelta
    """Executed by workers, also by those that were lost, until that was noticed."""
    waiting: timedelta
    """Waiting without a slot for an instant, a child, a batch or a token."""
    delayed: timedelta
    """Before it was queued for the first time."""
    backing_off: timedelta
    """Before another attempt or recovery."""

    def __str__(self) -> str:
        return self.sentence


async def retrieve(run: RunHandle[Any] | str, *, full: bool = False) -> Run:
    """A run as it stands; `full` also brings payload, attempts, checkpoints and children.

    Raises: NotFoundError, SchedulerUnavailableError.
    """
    asked = client.current()
    view = run_service_pb2.RUN_VIEW_FULL if full else run_service_pb2.RUN_VIEW_BASIC
    request = GetRunRequest(namespace=asked.settings.namespace, run_id=_id(run), view=view)
    return of_message((await asked.call(lambda endpoint: endpoint.runs.GetRun, request)).run)


async def list(*, limit: int = 50, page_token: str = "", **conditions: Unpack[Conditions]) -> RunPage:
    """A page of runs that meet all conditions (see `Conditions`), newest first; at most `limit` (1 to 1,000).

    A page looks at a bounded number of runs: it may have few, or none, and yet a `next_page_token`.

    Raises: InvalidArgumentError, RequestError, SchedulerUnavailableError.
    """
    asked = client.current()
    request = ListRunsRequest(
        namespace=asked.settings.namespace,
        page_size=filters.page_size(limit),
        page_token=page_token,
        filter=filters.of_runs(conditions),
    )
    response = await asked.call(lambda endpoint: endpoint.runs.ListRuns, request)
    return RunPage(tuple(of_message(run) for run in response.runs), response.next_page_token)


async def iterate(*, limit: int = 200, **conditions: Unpack[Conditions]) -> AsyncIterator[Run]:
    """All runs that meet the conditions, in pages of `limit`: `async for run in runs.iterate(status="FAILED")`.

    Raises: as `list`.
    """
    token = ""
    while True:
        page = await list(limit=limit, page_token=token, **conditions)
        for run in page:
            yield run
        token = page.next_page_token
        if not token:
            return


async def logs(run: RunHandle[Any] | str, *, limit: int = 1000, page_token: str = "") -> LogPage:
    """A page of the lines that a run logged, oldest first; at most `limit` (1 to 1,000).

    Raises: NotFoundError, InvalidArgumentError, SchedulerUnavailableError.
    """
    asked = client.current()
    request = ListRunLogsRequest(
        namespace=asked.settings.namespace,
        run_id=_id(run),
        page_size=filters.page_size(limit),
        page_token=page_token,
    )
    response = await asked.call(lambda endpoint: endpoint.runs.ListRunLogs, request)
    return LogPage(tuple(_line(record) for record in response.records), response.next_page_token)


async def explain(run: RunHandle[Any] | str) -> Explanation:
    """Why a run does not progress, in one exact sentence, and how it has spent its life so far.

    Raises: NotFoundError, SchedulerUnavailableError.
    """
    asked = client.current()
    request = ExplainRunRequest(namespace=asked.settings.namespace, run_id=_id(run))
    answer = await asked.call(lambda endpoint: endpoint.runs.ExplainRun, request)
    return Explanation(
        sentence=answer.sentence,
        queued=answer.queued.ToTimedelta(),
        executing=answer.executing.ToTimedelta(),
        waiting=answer.waiting.ToTimedelta(),
        delayed=answer.delayed.ToTimedelta(),
        backing_off=answer.backing_off.ToTimedelta(),
    )


async def cancel(run: RunHandle[Any] | str) -> Run:
    """Cancel a run and the children it waits for; returns the run as it stands then.

    Once this has returned the run will end CANCELED, unless it had ended before.

    Raises: NotFoundError, SchedulerUnavailableError.
    """
    asked = client.current()
    request = CancelRunRequest(namespace=asked.settings.namespace, run_id=_id(run))
    return of_message((await asked.call(lambda endpoint: endpoint.runs.CancelRun, request)).run)


async def replay(run: RunHandle[Any] | str, payload: Any = _KEEP) -> RunHandle[Any]:
    """Make a new run with the payload of an old one, or with another.

    Raises: NotFoundError, PayloadError, TooLargeError, SchedulerUnavailableError.
    """
    asked = client.current()
    request = ReplayRunRequest(namespace=asked.settings.namespace, run_id=_id(run), new_run_id=ids.new_run_id())
    if payload is not _KEEP:
        request.payload.data = payloads.encode_any(payload, "payload")
    handle = (await asked.call(lambda endpoint: endpoint.runs.ReplayRun, request)).handle
    task_id = run.task_id if isinstance(run, RunHandle) else ""
    return RunHandle(handle.run_id, task_id, payloads.anything, is_cached=handle.is_cached, client=asked)


async def reschedule(run: RunHandle[Any] | str, when: Duration | datetime) -> Run:
    """Move the start of a DELAYED run: to this long from now, or to an instant with a time zone.

    Raises: NotFoundError, WrongStatusError, InvalidDurationError, InvalidArgumentError, SchedulerUnavailableError.
    """
    asked = client.current()
    until: Timestamp | None = None
    delay = None
    if isinstance(when, datetime):
        until = options.instant(when, "when")
    else:
        delay = durations.to_message(when, "when")
    request = RescheduleRunRequest(namespace=asked.settings.namespace, run_id=_id(run), delay=delay, until=until)
    return of_message((await asked.call(lambda endpoint: endpoint.runs.RescheduleRun, request)).run)


class Subscription:
    """The states of runs: `async for run in runs.subscribe(tag="x")`."""

    def __init__(self, changes: AsyncIterator[WatchRunsResponse], cursor: str) -> None:
        self._changes = changes
        self.cursor = cursor
        """Where to go on after the last state that was taken: give it to `subscribe`, later or elsewhere."""

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Run:
        response = await anext(self._changes)
        self.cursor = response.cursor
        return of_message(response.run)

    async def aclose(self) -> None:
        """End it."""
        await self._changes.aclose()  # type: ignore[attr-defined]  # it is an asynchronous generator


def subscribe(
    run: RunHandle[Any] | str | None = None, *, tag: str | None = None, batch: str | None = None, cursor: str = ""
) -> Subscription:
    """The state of one run, of all with a tag, or of a batch: now, and at each change.

    States are the present ones: what changes several times in between is shown once. It ends with the run, or with all
    runs of the batch; that of a tag goes on. A break is mended where it was, also at another scheduler, and so is one
    that you make yourself, with `cursor`. No final state is missed; after a break some are shown again.

    Raises: InvalidArgumentError; while it is used NotFoundError, SchedulerUnavailableError.
    """
    if sum(given is not None for given in (run, tag, batch)) != 1:
        raise InvalidArgumentError("runs.subscribe: name one of a run, a tag and a batch.")
    return Subscription(_changes(run, tag, batch, cursor), cursor)


async def _changes(
    run: RunHandle[Any] | str | None, tag: str | None, batch: str | None, cursor: str
) -> AsyncIterator[WatchRunsResponse]:
    asked = client.current()
    request = WatchRunsRequest(namespace=asked.settings.namespace, cursor=cursor)
    if run is not None:
        request.run_id = _id(run)
    elif tag is not None:
        request.tag = tag
    elif batch is not None:
        request.batch_id = batch

    def go_on(response: WatchRunsResponse) -> None:
        request.cursor = response.cursor

    async for response in streaming.responses(asked, lambda endpoint: endpoint.runs.WatchRuns, request, go_on):
        yield response


def _line(record: LogRecord) -> LogLine:
    return LogLine(
        at=record.at.ToDatetime(UTC),
        level=record.level,
        message=record.message,
        fields=payloads.as_object(record.fields),
        attempt=record.attempt,
    )


def _id(run: RunHandle[Any] | str) -> str:
    return run.id if isinstance(run, RunHandle) else texts.check(run, "run id")
