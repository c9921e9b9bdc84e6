"""The command `holdfast`. It is thin: each end is loaded only by the subcommand that needs it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (by default those of the process) and return its exit code."""
    from holdfast.cli.app import run

    return run(arguments)
