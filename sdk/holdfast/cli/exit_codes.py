"""Exit codes of `holdfast`, as docs/cli.md lists them. Scripts depend on them: they do not change."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
"""What was asked is done."""
NOT_COMPLETED: Final = 1
"""A run that was waited for ended otherwise than COMPLETED; a worker stopped before all it held was handed back."""
WRONG_USE: Final = 2
"""An argument, an option, a JSON text or a target is not acceptable."""
NOT_FOUND: Final = 3
"""There is no such run or task."""
UNREACHABLE: Final = 4
"""No scheduler answered."""
REFUSED: Final = 5
"""The scheduler refused the request."""
CANNOT_START: Final = 6
"""A server could not start: its port is taken or open to all, its database in use or away, an extra missing."""
INTERRUPTED: Final = 130
"""Ctrl-C."""
