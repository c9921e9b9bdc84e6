"""An error of the user's making: one clear line and an exit code, never a traceback."""

from __future__ import annotations

from holdfast import errors
from holdfast.cli import exit_codes


class CommandError(Exception):
    """Ends the command with `message` on standard error and `exit_code`."""

    def __init__(self, message: str, exit_code: int = exit_codes.WRONG_USE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: errors.HoldfastError) -> int:
    """The exit code for an error of the SDK."""
    match error:
        case errors.SchedulerUnavailableError():
            return exit_codes.UNREACHABLE
        case errors.NotFoundError() | errors.TaskNotFoundError():
            return exit_codes.NOT_FOUND
        case errors.InvalidArgumentError() | errors.TaskDefinitionError():
            return exit_codes.WRONG_USE
        case errors.RequestError(reason="INVALID_ARGUMENT" | "INVALID_FILTER" | "INVALID_KEY"):
            return exit_codes.WRONG_USE
        case _:
            return exit_codes.REFUSED
