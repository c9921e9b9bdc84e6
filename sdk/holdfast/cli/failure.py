"""An error of the user's making: one clear line and an exit code, never a traceback."""

from __future__ import annotations

from holdfast.cli import exit_codes


class CommandError(Exception):
    """Ends the command with `message` on standard error and `exit_code`."""

    def __init__(self, message: str, exit_code: int = exit_codes.WRONG_USE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
