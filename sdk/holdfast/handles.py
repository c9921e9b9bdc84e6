"""What triggering gives: handles of runs and batches, and the results of those that were awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from holdfast import _scope, client, durations, failures
from holdfast.client import Client
from holdfast.durations import Duration
from holdfast.errors import ErrorInfo, HoldfastError, InRunError, RunFailedError, SubtaskRunError
from holdfast.payloads import Codec
from holdfast.statuses import RunStatus
from holdfast.v1 import run_pb2
from holdfast.v1.run_service_pb2 import RunResult as RunResultMessage

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RunResult(Generic[R]):
    """How a run ended."""

    run_id: str
    """Empty when the item of a batch could not become a run."""
    status: RunStatus
    output: R | None = None
    """What the task returned; None when it failed."""
    error: ErrorInfo | None = None
    """Why it failed; None when it did not."""
    is_cached: bool = False
    """Whether the run existed already under the idempotency key."""
    payload_differs: bool = False
    """Whether that run was triggered with another payload."""
    in_run: bool = True

    @property
    def ok(self) -> bool:
        """Whether it completed."""
        return self.error is None

    def unwrap(self) -> R:
        """The output. Raises: SubtaskRunError when the run failed."""
        if self.error is not None:
            kind = SubtaskRunError if self.in_run else RunFailedError
            raise kind(self.status, self.error, self.run_id)
        return self.output  # type: ignore[return-value]  # a completed run has an output of type R, which may be None


class RunHandle(Generic[R]):
    """Names a run that a trigger made or found."""

    __slots__ = ("_client", "_codec", "id", "is_cached", "payload_differs", "task_id")

    def __init__(
        self,
        id: str,
        task_id: str,
        codec: Codec[R],
        *,
        is_cached: bool = False,
        payload_differs: bool = False,
        client: Client | None = None,
    ) -> None:
        self.id = id
        self.task_id = task_id
        self.is_cached = is_cached
        """Whether the run existed already under the idempotency key."""
        self.payload_differs = payload_differs
        """Whether that run was triggered with another payload."""
        self._codec = codec
        self._client = client

    def __repr__(self) -> str:
        return f"<RunHandle {self.id} of {self.task_id!r}{' (cached)' if self.is_cached else ''}>"

    async def result(self, timeout: Duration | None = None) -> R:
        """The run's output, as soon as it has ended. None waits as long as it takes.

        Raises: RunFailedError (status, error, run_id); TimeoutError; SchedulerUnavailableError; InRunError.
        """
        message = await self._await_end(timeout)
        if message.status == run_pb2.RUN_STATUS_COMPLETED:
            return self._codec.decode_payload(message.output)
        return self._to_result(message).unwrap()

    async def wait(self, timeout: Duration | None = None) -> RunResult[R]:
        """How the run ended, as soon as it has; a failed run does not raise. Raises: as `result` otherwise."""
        return self._to_result(await self._await_end(timeout))

    async def _await_end(self, timeout: Duration | None) -> RunResultMessage:
        if _scope.current() is not None:
            raise InRunError(
                "handle.result() inside a run would keep its slot and be forgotten by a crash. Wait for a child "
                "with trigger_and_wait or batch_trigger_and_wait."
            )
        ended = (self._client or client.current()).result(self.id)
        if timeout is None:
            message = await ended
        else:
            message = await asyncio.wait_for(ended, durations.parse(timeout, "timeout").total_seconds())
        client.check_result(message)
        return message

    def _to_result(self, message: RunResultMessage) -> RunResult[R]:
        return result_of(
            self.id,
            message.status,
            message.output,
            message.error,
            self._codec,
            self.is_cached,
            self.payload_differs,
            in_run=False,
        )


@dataclass(frozen=True, slots=True)
class BatchHandle(Generic[R]):
    """Names a batch. An item that could not become a run stands in its place as its error."""

    id: str
    is_cached: bool
    """Whether the batch existed already under its key."""
    outcomes: Sequence[RunHandle[R] | HoldfastError]
    """One per item, in input order."""
    payload_differs: bool = False
    """Whether the batch that its key named was triggered with other items; `outcomes` are those of that batch."""

    @property
    def runs(self) -> list[RunHandle[R]]:
        """The handles of the items that became runs."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, RunHandle)]

    @property
    def errors(self) -> dict[int, HoldfastError]:
        """Why the other items did not, by their place in the input."""
        return {place: each for place, each in enumerate(self.outcomes) if not isinstance(each, RunHandle)}

    async def results(self, timeout: Duration | None = None) -> BatchResult[R]:
        """How all runs ended, as soon as they have. Raises: TimeoutError, SchedulerUnavailableError, InRunError."""
        gathered = asyncio.gather(*[_result_or_error(outcome) for outcome in self.outcomes])
        seconds = None if timeout is None else durations.parse(timeout, "timeout").total_seconds()
        return BatchResult(self.id, self.is_cached, await asyncio.wait_for(gathered, seconds), self.payload_differs)


@dataclass(frozen=True, slots=True)
class BatchResult(Generic[R]):
    """How the runs of a batch ended, in input order."""

    id: str
    is_cached: bool
    results: Sequence[RunResult[R]]
    payload_differs: bool = False
    """Whether the batch that its key named was triggered with other items; `results` are those of that batch."""

    @property
    def ok(self) -> bool:
        """Whether all completed."""
        return all(result.ok for result in self.results)

    def unwrap(self) -> list[R]:
        """All outputs. Raises: SubtaskRunError (outside a run RunFailedError) for the first that failed."""
        return [result.unwrap() for result in self.results]

    def __iter__(self) -> Iterator[RunResult[R]]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, place: int) -> RunResult[R]:
        return self.results[place]


def result_of(
    run_id: str,
    status: int,
    output: Any,
    error: Any,
    codec: Codec[R],
    is_cached: bool = False,
    payload_differs: bool = False,
    in_run: bool = True,
) -> RunResult[R]:
    """The result that a final status, an output and a `TaskError` stand for."""
    if status == run_pb2.RUN_STATUS_COMPLETED:
        value = codec.decode_payload(output)
        return RunResult(run_id, RunStatus.COMPLETED, value, None, is_cached, payload_differs, in_run)
    try:
        shown = RunStatus.of(status)
    except ValueError:  # a status that a newer scheduler knows: it did not complete, that much is sure
        shown = RunStatus.FAILED
    return RunResult(run_id, shown, None, failures.to_info(error), is_cached, payload_differs, in_run)


async def _result_or_error(outcome: RunHandle[R] | HoldfastError) -> RunResult[R]:
    if isinstance(outcome, RunHandle):
        return await outcome.wait()
    info = ErrorInfo("NOT_TRIGGERED", type(outcome).__name__, str(outcome))
    return RunResult("", RunStatus.FAILED, None, info, in_run=False)
