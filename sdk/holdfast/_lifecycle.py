"""What surrounds a body: middleware and hooks of one execution, in the order that docs/hooks.md promises.

Every hook has a branch of its own (`RunScope.fork`): what it does durably is found again at re-entry, and moves nothing
of the body. What a hook raises after the outcome is known is logged and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from holdfast import _calls, _hooks, _scope, durations, failures, logger
from holdfast._hooks import Hook, Hooks
from holdfast._scope import RunScope
from holdfast.errors import InvalidArgumentError, RunCanceledError
from holdfast.handles import RunResult
from holdfast.retry_policy import Decision, Retry
from holdfast.statuses import RunStatus
from holdfast.v1.payload_pb2 import Payload, TaskError

if TYPE_CHECKING:
    from holdfast._task import Task

_WHY_PLAIN: Final = (
    "whether a body is parked depends on time, so what is called here could not be found again. Call it in the body."
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class AttemptResult:
    """How the body ended, as a middleware sees it after its `yield`."""

    output: Any = None
    """What the body returned."""
    error: BaseException | None = None
    """What it raised."""

    @property
    def ok(self) -> bool:
        """Whether it returned."""
        return self.error is None


class Lifecycle:
    """The hooks of one execution."""

    def __init__(self, task: Task[Any, Any], payload: Payload, scope: RunScope, everywhere: Hooks, own: Hooks) -> None:
        self._task = task
        self._payload = payload
        self._scope = scope
        self._everywhere = everywhere
        self._own = own
        self._known: dict[str, Any] = {"payload": None, "ctx": scope.ctx, "signal": scope.signal}
        self._result = AttemptResult()
        self.has_on_wait = self._has("on_wait", "on_resume")
        """Whether `waits` and `goes_on` do anything."""
        self.has_on_cancel = self._has("on_cancel")
        """Whether `canceled` does anything."""
        self.has_after = self._has("on_success", "on_failure", "on_complete", "catch_error")
        """Whether `judge` and `ended` do anything."""

    async def attempt(self) -> Payload:
        """Run the body inside its middleware; returns the encoded output. Raises: what the body or a hook raises."""
        _scope.bind(self._scope)
        self._known["payload"] = self._task.decode(self._payload)
        value = await self._through(self._inwards("middleware"))
        return self._task.encode_output(value, self._scope)

    async def waits(self) -> None:
        """The body is about to be parked."""
        await self._plainly("on_wait")

    async def goes_on(self) -> None:
        """The body is about to go on."""
        await self._plainly("on_resume")

    async def canceled(self) -> None:
        """The run is being canceled; the body may still run."""
        _scope.bind(self._scope)
        for hook in self._outwards("on_cancel"):
            await self._after(hook, shielded=True)

    async def judge(self, error: BaseException, described: TaskError) -> tuple[TaskError, timedelta | None]:
        """An attempt failed: what to report, and the delay before the next one if a hook decided it."""
        _scope.bind(self._scope)
        if described.kind != failures.USER:
            return described, None
        for hook in self._outwards("catch_error"):
            decision = await self._after(hook, error=error)
            if decision is None:
                continue
            try:
                return _decided(decision, described, self._scope.ctx.attempt.number)
            except InvalidArgumentError as refused:
                logger.error(f"{hook.name}: {refused}")
        return described, None

    async def ended(self, status: RunStatus, described: TaskError | None, error: BaseException | None) -> None:
        """The run ends with this status, whatever happens here."""
        _scope.bind(self._scope)
        is_canceled = status is RunStatus.CANCELED
        if status is RunStatus.COMPLETED:
            for hook in self._outwards("on_success"):
                await self._after(hook, output=self._result.output)
        elif not is_canceled:
            for hook in self._outwards("on_failure"):
                await self._after(hook, error=error)
        if described is None and error is not None:
            described = failures.describe(error)
        result: RunResult[Any] = RunResult(
            run_id=self._scope.ctx.run.id,
            status=status,
            output=self._result.output if status is RunStatus.COMPLETED else None,
            error=None if described is None else failures.to_info(described),
            in_run=False,
        )
        for hook in self._outwards("on_complete"):
            await self._after(hook, shielded=is_canceled, result=result)

    async def _through(self, middleware: Sequence[Hook]) -> Any:
        if not middleware:
            return await self._body()
        hook, rest = middleware[0], middleware[1:]
        with self._scope.fork(hook.name):
            manager = hook.call(self._known | {"result": self._result})
            await manager.__aenter__()
        try:
            value = await self._through(rest)
        except BaseException as error:
            self._result.error = error
            with self._scope.fork(hook.name):
                await manager.__aexit__(type(error), error, error.__traceback__)
            raise  # a middleware sees an error and may raise another; it cannot make it undone
        with self._scope.fork(hook.name):
            await manager.__aexit__(None, None, None)
        return value

    async def _body(self) -> Any:
        for hook in self._inwards("on_start_attempt"):
            with self._scope.fork(hook.name):
                await hook.run(self._known, self._scope)
        self._result.output = await self._task.call(self._known["payload"], self._scope)
        return self._result.output

    async def _plainly(self, event: str) -> None:
        _scope.bind(self._scope)
        with _calls.inside_plain(event, _WHY_PLAIN):
            for hook in self._inwards(event) if event == "on_resume" else self._outwards(event):
                await self._after(hook)

    async def _after(self, hook: Hook, *, shielded: bool = False, **known: Any) -> Any:
        """Run a hook that cannot change anything but by what it returns."""
        try:
            with self._scope.fork(hook.name, shielded=shielded):
                return await hook.run(self._known | known, self._scope)
        except RunCanceledError:
            logger.warning(f"{hook.name} was cut short: the run is being canceled")
        except BaseException as error:  # SystemExit too: it would end the process with everybody else's runs
            logger.error(f"{hook.name} failed: {type(error).__name__}: {error}")
            log.warning("event=hook_failed hook=%r", hook.name, exc_info=error)
        return None

    def _inwards(self, event: str) -> list[Hook]:
        return [*self._everywhere.of(event), *self._own.of(event)]

    def _outwards(self, event: str) -> list[Hook]:
        return [*self._own.of(event), *self._everywhere.of(event)]

    def _has(self, *events: str) -> bool:
        return any(self._everywhere.of(event) or self._own.of(event) for event in events)


def of(task: Task[Any, Any], payload: Payload, scope: RunScope) -> Lifecycle | None:
    """The hooks around one execution of `task`; None when there are none."""
    if not task.hooks and not _hooks.everywhere:
        return None
    return Lifecycle(task, payload, scope, _hooks.everywhere, task.hooks)


def _decided(decision: object, described: TaskError, attempt: int) -> tuple[TaskError, timedelta | None]:
    """What `catch_error` returned. Raises: InvalidArgumentError."""
    made = TaskError()
    made.CopyFrom(described)
    if isinstance(decision, Retry):
        made.retryable = attempt < decision.max_attempts
        return made, timedelta(seconds=decision.delay_after(attempt))
    if not isinstance(decision, Decision):
        raise InvalidArgumentError(
            f"{decision!r} is no decision; return None, retry.skip(), retry.at(...), retry.after(...) or a Retry."
        )
    made.retryable = decision.again
    if decision.at is not None:
        return made, max(timedelta(), decision.at - datetime.now(UTC))
    return made, None if decision.delay is None else durations.parse(decision.delay)
