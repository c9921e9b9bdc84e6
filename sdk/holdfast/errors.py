"""Everything that Holdfast raises, in one tree.

BaseException
└── RunCanceledError             the run is being canceled (not an Exception: `except Exception` must not eat it)

HoldfastError
├── InvalidArgumentError         (also ValueError) a value handed to the SDK is not acceptable
│   ├── InvalidKeyError          an idempotency key or a part of one
│   ├── InvalidDurationError     a duration
│   ├── InvalidRetryError        a field of `Retry`
│   ├── InvalidPayloadError      (also PayloadError) a payload does not fit its task's schema
│   └── TooLargeError            (also PayloadError) something is larger than its named limit
├── PayloadError                 a value cannot be encoded as, or decoded from, JSON of its declared type
│   └── InvalidOutputError       a result cannot be encoded by its declared type
├── TaskDefinitionError          a task is declared wrongly
│   └── DuplicateTaskError       two functions claim one task id
├── NotInRunError                (also RuntimeError) only possible inside a run
├── InRunError                   (also RuntimeError) not possible here inside a run; the message says what is
├── AbortTaskRunError            raised by user code: fail the run now, without another attempt
├── StepFailedError              a step failed: type, message, details
│   └── StepAbortedError         (also AbortTaskRunError) it failed for good; uncaught it fails the run
├── RunFailedError               a run ended without output: status, error, run_id
│   └── SubtaskRunError          a child of this run did; raised by `unwrap()`
├── TokenFailedError             a token timed out or was failed; raised by `unwrap()`
├── NonDeterminismError          a re-entered body asked for something else than what is recorded
├── RequestError                 the scheduler refused a request: reason, metadata
│   ├── TriggerError             it could not make a run
│   │   ├── TaskNotFoundError    no worker ever registered the task
│   │   └── WouldDeadlockError   waiting would never end: the key belongs to the run itself or an ancestor
│   ├── NotFoundError            no run, token, queue, schedule or batch has this id
│   ├── WrongStatusError         the run's status does not allow it
│   ├── UnauthenticatedError     the API key is missing or wrong
│   └── NotServedError           this scheduler does not serve that part of the contract
└── SchedulerUnavailableError    (also ConnectionError) nobody answered at these addresses in time
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "AbortTaskRunError",
    "DuplicateTaskError",
    "ErrorInfo",
    "HoldfastError",
    "InRunError",
    "InvalidArgumentError",
    "InvalidDurationError",
    "InvalidKeyError",
    "InvalidOutputError",
    "InvalidPayloadError",
    "InvalidRetryError",
    "NonDeterminismError",
    "NotFoundError",
    "NotInRunError",
    "NotServedError",
    "PayloadError",
    "RequestError",
    "RunCanceledError",
    "RunFailedError",
    "SchedulerUnavailableError",
    "StepAbortedError",
    "StepFailedError",
    "SubtaskRunError",
    "TaskDefinitionError",
    "TaskNotFoundError",
    "TokenFailedError",
    "TooLargeError",
    "TriggerError",
    "UnauthenticatedError",
    "WouldDeadlockError",
    "WrongStatusError",
]


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """A failure of user code, as data."""

    kind: str
    """Who or what failed: USER, ABORTED, INVALID_PAYLOAD, INVALID_OUTPUT, NON_DETERMINISM, TIMED_OUT, CRASHED,
    LIMIT_EXCEEDED, CANCELED, EXPIRED or NOT_TRIGGERED."""
    type: str
    """Type of the error in its own language, for example "ValueError"."""
    message: str
    """One line for people."""
    stack: str = ""
    """Stack trace as text; may be empty."""
    retryable: bool = False
    """Whether another attempt might succeed."""
    details: Any = None
    """What the failing code supplied as `details`."""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.type else self.message


class RunCanceledError(BaseException):
    """The run is being canceled. Clean up and let it pass; durable calls work in `async with shielded():` only."""


class HoldfastError(Exception):
    """Root of what Holdfast raises."""


class InvalidArgumentError(HoldfastError, ValueError):
    """A value handed to the SDK is not acceptable; the message names it and the way out."""


class InvalidKeyError(InvalidArgumentError):
    """An idempotency key, or a part of one, is not acceptable."""


class InvalidDurationError(InvalidArgumentError):
    """A duration is malformed, negative, not a number, or too long."""


class InvalidRetryError(InvalidArgumentError):
    """A field of `Retry` is out of its range."""


class PayloadError(HoldfastError):
    """A value cannot be encoded as, or decoded from, JSON of its declared type."""


class InvalidPayloadError(PayloadError, InvalidArgumentError):
    """A payload does not fit its task's schema. Another attempt would not help."""


class InvalidOutputError(PayloadError):
    """A result cannot be encoded by its declared type. Another attempt would not help."""


class TooLargeError(PayloadError, InvalidArgumentError):
    """Something is larger than its limit.

    `limit` is the limit's name, `size` what was met, `maximum` what is allowed.
    """

    def __init__(self, message: str, *, limit: str = "", size: int = 0, maximum: int = 0) -> None:
        super().__init__(message)
        self.limit = limit
        self.size = size
        self.maximum = maximum


class TaskDefinitionError(HoldfastError):
    """A task is declared wrongly."""


class DuplicateTaskError(TaskDefinitionError):
    """Two functions claim one task id; the message names both places."""


class NotInRunError(HoldfastError, RuntimeError):
    """This is only possible inside a run."""


class InRunError(HoldfastError, RuntimeError):
    """This is not possible at this place inside a run; the message says what is."""


class AbortTaskRunError(HoldfastError):
    """Raise it in a task or a step to fail the run now, without another attempt.

    `details` (JSON-encodable) is stored with the error.
    """

    def __init__(self, message: str = "The run was aborted.", *, details: Any = None) -> None:
        super().__init__(message)
        self.details = details


class StepFailedError(HoldfastError):
    """A step failed. Looks the same the first time and on re-entry: the original exception is not kept."""

    def __init__(self, step: str, error: ErrorInfo) -> None:
        super().__init__(f"Step {step!r} failed: {error}")
        self.step = step
        self.error = error
        self.type = error.type
        self.message = error.message
        self.details = error.details
        self.retryable = error.retryable


class StepAbortedError(StepFailedError, AbortTaskRunError):
    """A step failed for good (it raised `AbortTaskRunError` or a class in `abort_on`). Uncaught it fails the run."""


class RunFailedError(HoldfastError):
    """A run ended without output. `status` is its final status, `error` an `ErrorInfo`."""

    def __init__(self, status: str, error: ErrorInfo, run_id: str) -> None:
        super().__init__(f"Run {run_id or '(never made)'} ended {status}: {error}")
        self.status = status
        self.error = error
        self.run_id = run_id


class SubtaskRunError(RunFailedError):
    """A child of this run ended without output; raised by `unwrap()`."""


class TokenFailedError(HoldfastError):
    """A token timed out or was completed with an error; raised by `unwrap()`."""

    def __init__(self, token_id: str, error: ErrorInfo) -> None:
        super().__init__(f"Token {token_id}: {error}")
        self.token_id = token_id
        self.error = error


class NonDeterminismError(HoldfastError):
    """A re-entered body asked for something else than what is recorded at this place."""


class RequestError(HoldfastError):
    """The scheduler refused a request.

    `reason` is the name of an ErrorReason without its prefix, `metadata` its facts for programs.
    """

    def __init__(self, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = dict(metadata or {})


class TriggerError(RequestError):
    """The scheduler could not make a run of this item."""


class TaskNotFoundError(TriggerError):
    """No worker has ever registered the task; the message lists similar names."""


class WouldDeadlockError(TriggerError):
    """Waiting would never end: the idempotency key belongs to the run itself or to an ancestor."""


class NotFoundError(RequestError):
    """No run, token, queue, schedule or batch has this id."""


class WrongStatusError(RequestError):
    """The run's status does not allow this."""


class UnauthenticatedError(RequestError):
    """The API key is missing or wrong. Set HOLDFAST_API_KEY or call `holdfast.configure(api_key=...)`."""


class NotServedError(RequestError):
    """The scheduler does not serve this part of the contract."""


class SchedulerUnavailableError(HoldfastError, ConnectionError):
    """Nobody answered at these addresses within the deadline. What was asked may have happened: ids make it safe
    to ask again."""
