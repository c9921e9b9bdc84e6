"""Tasks: functions registered under an id, with their retry, queue and limits."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, Unpack, get_args, overload

from holdfast import (
    _hooks,
    _lifecycle,
    _scope,
    batch,
    durations,
    failures,
    payloads,
    registry,
    signature,
    triggering,
)
from holdfast._hooks import HookOptions
from holdfast._lifecycle import Lifecycle
from holdfast._scope import RunScope
from holdfast.batch import Item
from holdfast.durations import Duration
from holdfast.errors import (
    InvalidOutputError,
    InvalidPayloadError,
    PayloadError,
    TaskDefinitionError,
    TooLargeError,
)
from holdfast.handles import BatchHandle, BatchResult, RunHandle, RunResult
from holdfast.options import BatchOptions, BatchWaitOptions, TriggerOptions, WaitOptions
from holdfast.payloads import Codec
from holdfast.queues import Queue
from holdfast.retry_policy import Retry
from holdfast.signature import NO_PAYLOAD
from holdfast.triggering import MISSING
from holdfast.v1.payload_pb2 import Payload, TaskError
from holdfast.v1.task_pb2 import DeclaredSchedule, TaskDefinition

if TYPE_CHECKING:
    from holdfast.sync import SyncTask

P = TypeVar("P")
R = TypeVar("R")

VersionPolicy: TypeAlias = Literal["latest", "wait"]
"""What becomes of a run that has started when no worker of its version is connected any more: it moves to the newest
version that is, or waits for a worker of its own."""

MAX_RECOVERIES = 1000
MAX_DESCRIPTION_CHARS = 2000
_MADE_BY = "made-by"
"""Meta of a payload that the scheduler has made."""
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}")


class Task(Generic[P, R]):
    """A function registered under an id; make one with `@task`. `P` is the type of its payload, `R` of its output."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        id: str | None = None,
        retry: Retry | None = None,
        queue: Queue | str | None = None,
        max_duration: Duration | None = None,
        timeout: Duration | None = None,
        ttl: Duration | None = None,
        max_recoveries: int | None = None,
        version_policy: VersionPolicy = "latest",
        schedule: DeclaredSchedule | None = None,
        local_names: Mapping[str, Any] | None = None,
        **hooks: Unpack[HookOptions],
    ) -> None:
        if not callable(function) or isinstance(function, type):
            raise TaskDefinitionError(f"@task: {function!r} is not a function.")
        self.function = function
        self.id = _checked_id(getattr(function, "__name__", "") if id is None else id)
        self.retry = _checked_retry(self.id, retry)
        self.queue = Queue(queue) if isinstance(queue, str) else queue
        self.max_duration = _limit(max_duration, self.id, "max_duration")
        self.timeout = _limit(timeout, self.id, "timeout")
        self.ttl = _limit(ttl, self.id, "ttl")
        self.max_recoveries = _checked_recoveries(self.id, max_recoveries)
        self.version_policy = _checked_version_policy(self.id, version_policy)
        self.schedule = schedule
        self.hooks = _hooks.of_task(hooks, self.id)
        self.is_async = inspect.iscoroutinefunction(function)
        self.signature = signature.read(function, self.id)
        self._local_names = local_names
        self._annotations = signature.resolve(function, local_names)
        self._payload_codec: Codec[P] | None = None
        self._output_codec: Codec[R] | None = None
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", self.id)
        self.__qualname__ = getattr(function, "__qualname__", self.id)
        self.__module__ = function.__module__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<Task {self.id!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function: no run is made, nothing is durable but what a surrounding run makes so."""
        return self.function(*args, **kwargs)

    @property
    def sync(self) -> SyncTask[P, R]:
        """The same task with blocking methods, for `def` bodies and callers without an event loop."""
        from holdfast.sync import SyncTask  # it needs this module

        return SyncTask(self)

    @overload
    def trigger(self: Task[None, R], **options: Unpack[TriggerOptions]) -> Coroutine[Any, Any, RunHandle[R]]: ...
    @overload
    def trigger(self, payload: P, **options: Unpack[TriggerOptions]) -> Coroutine[Any, Any, RunHandle[R]]: ...
    def trigger(self, payload: Any = MISSING, **options: Any) -> Coroutine[Any, Any, RunHandle[R]]:
        """Make a run. Durable inside a run: re-entry returns the same handle. The options are those of
        `TriggerOptions`.

        Raises: InvalidPayloadError, TooLargeError, InvalidKeyError, InvalidDurationError, TaskNotFoundError,
        TriggerError, SchedulerUnavailableError.
        """
        return triggering.trigger(self, payload, options)

    @overload
    def trigger_and_wait(self: Task[None, R], **options: Unpack[WaitOptions]) -> Coroutine[Any, Any, RunResult[R]]: ...
    @overload
    def trigger_and_wait(self, payload: P, **options: Unpack[WaitOptions]) -> Coroutine[Any, Any, RunResult[R]]: ...
    def trigger_and_wait(self, payload: Any = MISSING, **options: Any) -> Coroutine[Any, Any, RunResult[R]]:
        """Make a child and wait for its end, without a slot. A failed child does not raise: see `ok` and `unwrap()`.

        The options are those of `WaitOptions`.

        Raises: NotInRunError outside a run; otherwise as `trigger`.
        """
        return triggering.trigger_and_wait(self, payload, options)

    def batch_trigger(
        self, items: Iterable[P | Item[R]], **options: Unpack[BatchOptions]
    ) -> Coroutine[Any, Any, BatchHandle[R]]:
        """Make up to 1,000 runs in one commit. An item is a payload, or `task.item(payload, ...)` with options.

        Raises: as `batch.trigger`.
        """
        return batch.trigger_items(self._items(items), options, f"{self.id}.batch_trigger()")

    def batch_trigger_and_wait(
        self, items: Iterable[P | Item[R]], **options: Unpack[BatchWaitOptions]
    ) -> Coroutine[Any, Any, BatchResult[R]]:
        """Make up to 1,000 children in one commit and wait until all have ended; results come in input order.

        Raises: as `batch.trigger_and_wait`.
        """
        return batch.trigger_items_and_wait(self._items(items), options, f"{self.id}.batch_trigger_and_wait()")

    @overload
    def item(self: Task[None, R], **options: Unpack[TriggerOptions]) -> Item[R]: ...
    @overload
    def item(self, payload: P, **options: Unpack[TriggerOptions]) -> Item[R]: ...
    def item(self, payload: Any = MISSING, **options: Any) -> Item[R]:
        """One item of a batch, with options of its own."""
        return Item(self, payload, options)

    def _items(self, given: Iterable[P | Item[R]]) -> list[Item[R]]:
        return [each if isinstance(each, Item) else Item(self, each, {}) for each in given]

    def payload_or_default(self, payload: Any) -> Any:
        """`payload`, or the default of the function's parameter when it was left out.

        Raises: InvalidPayloadError when it was left out and there is none, or given to a task that takes none.
        """
        if payload is MISSING:
            if self.signature.default is NO_PAYLOAD:
                raise InvalidPayloadError(f"Task {self.id!r} needs a payload; pass it to trigger().")
            return self.signature.default
        if self.signature.payload is None and payload is not None:
            raise InvalidPayloadError(f"Task {self.id!r} takes no payload: its function has no parameter for one.")
        return payload

    # What the worker needs of it

    @property
    def payload_codec(self) -> Codec[P]:
        """Encodes and decodes payloads by the annotation of the function's parameter."""
        if self._payload_codec is None:
            name = self.signature.payload
            hints = self._hints()
            annotation = None if name is None else hints.get(name, Any)
            self._payload_codec = Codec(annotation, f"payload of task {self.id!r}")
        return self._payload_codec

    @property
    def output_codec(self) -> Codec[R]:
        """Encodes and decodes outputs by the function's return annotation."""
        if self._output_codec is None:
            self._output_codec = Codec(self._hints().get("return", Any), f"output of task {self.id!r}")
        return self._output_codec

    def definition(self) -> TaskDefinition:
        """What a worker announces of the task.

        Raises: TaskDefinitionError, PayloadError when an annotation cannot be resolved or made JSON of.
        """
        message = TaskDefinition(
            id=self.id,
            retry=self.retry.to_message(),
            queue=(self.queue or Queue()).to_message(),
            max_recoveries=self.max_recoveries,
            payload_schema=self.payload_codec.schema(),
            output_schema=self.output_codec.schema(),
            description=_first_paragraph(self.function),
            version_policy="" if self.version_policy == "latest" else self.version_policy,
        )
        if self.max_duration is not None:
            message.max_duration.CopyFrom(durations.to_message(self.max_duration))
        if self.timeout is not None:
            message.timeout.CopyFrom(durations.to_message(self.timeout))
        if self.ttl is not None:
            message.ttl.CopyFrom(durations.to_message(self.ttl))
        if self.schedule is not None:
            message.schedule.CopyFrom(self.schedule)
        return message

    async def execute(self, payload: Payload, scope: RunScope) -> Payload:
        """Run the body to its end in the run of `scope`, without hooks; returns the encoded output.

        Raises: whatever the body raises; InvalidPayloadError, InvalidOutputError, TooLargeError.
        """
        token = _scope.bind(scope)
        try:
            return self.encode_output(await self.call(self.decode(payload), scope), scope)
        finally:
            _scope.unbind(token)

    def lifecycle(self, payload: Payload, scope: RunScope) -> Lifecycle | None:
        """The hooks around one execution, which then run the body; None when there are none."""
        return _lifecycle.of(self, payload, scope)

    async def call(self, value: Any, scope: RunScope) -> Any:
        """Call the function with a decoded payload; a `def` one in a thread. Raises: whatever it raises."""
        args = [] if self.signature.payload is None else [value]
        kwargs: dict[str, Any] = {}
        if self.signature.wants_ctx:
            kwargs[signature.CTX] = scope.ctx
        if self.signature.wants_signal:
            kwargs[signature.SIGNAL] = scope.signal
        if self.is_async:
            return await self.function(*args, **kwargs)
        return await scope.in_thread(functools.partial(self.function, *args, **kwargs))

    def describe_error(self, error: BaseException) -> TaskError:
        """A failure of the body as data."""
        return failures.describe(error, self.retry)

    def decode(self, payload: Payload) -> Any:
        """The payload as the function takes it. Raises: InvalidPayloadError."""
        if self.signature.payload is None and payload.meta.get(_MADE_BY) == "schedule":
            return None  # a schedule tells every task what it is for; this one does not ask
        try:
            return self.payload_codec.decode_payload(payload)
        except PayloadError as error:
            raise InvalidPayloadError(str(error)) from error

    def encode_output(self, value: Any, scope: RunScope) -> Payload:
        """What the function returned, encoded. Raises: InvalidOutputError, TooLargeError."""
        maximum = scope.limits.payload_bytes or payloads.MAX_PAYLOAD_BYTES
        try:
            return payloads.to_payload(self.output_codec.encode(value, "output", maximum))
        except TooLargeError:
            raise
        except PayloadError as error:
            raise InvalidOutputError(str(error)) from error

    def _hints(self) -> dict[str, Any]:
        """Annotations may name what is defined further down the file: then they are resolved when first needed."""
        if self._annotations is None:
            self._annotations = signature.resolve(self.function, self._local_names)
        if self._annotations is None:
            raise TaskDefinitionError(
                f"Task {self.id!r}: an annotation of {registry.place(self.function)} names something that is not "
                "defined at the top of its module. Import it there (not only under TYPE_CHECKING)."
            )
        self._local_names = None
        return self._annotations


def _checked_id(task_id: str) -> str:
    if not isinstance(task_id, str) or not _ID.fullmatch(task_id):
        raise TaskDefinitionError(
            f"Task id {task_id!r} is not acceptable. Use 1 to 128 letters, digits and _ . : / - (not first); "
            'for example @task(id="export-invoices").'
        )
    return task_id


def _checked_retry(task_id: str, retry: Retry | None) -> Retry:
    if retry is None:
        return Retry()
    if not isinstance(retry, Retry):
        raise TaskDefinitionError(f"Task {task_id!r}: retry={retry!r} is not a Retry; write Retry(max_attempts=...).")
    return retry


def _checked_recoveries(task_id: str, value: int | None) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RECOVERIES:
        raise TaskDefinitionError(f"Task {task_id!r}: max_recoveries={value!r} is not between 1 and {MAX_RECOVERIES}.")
    return value


def _checked_version_policy(task_id: str, value: VersionPolicy) -> VersionPolicy:
    if value not in get_args(VersionPolicy):
        raise TaskDefinitionError(f'Task {task_id!r}: version_policy={value!r} is neither "latest" nor "wait".')
    return value


def _limit(value: Duration | None, task_id: str, name: str) -> timedelta | None:
    if value is None:
        return None
    limit = durations.parse(value, f"Task {task_id!r}: {name}")
    if not limit:
        raise TaskDefinitionError(f"Task {task_id!r}: {name}=0 would end every run; leave it out for no limit.")
    return limit


def _first_paragraph(function: Callable[..., Any]) -> str:
    paragraph = (inspect.getdoc(function) or "").split("\n\n", 1)[0]
    return " ".join(paragraph.split())[:MAX_DESCRIPTION_CHARS]
