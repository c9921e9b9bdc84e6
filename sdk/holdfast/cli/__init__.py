"""The command `holdfast`. It is thin: each end is loaded only by the subcommand that needs it."""

from __future__ import annotations

import os
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (by default those of the process) and return its exit code."""
    # gRPC's core writes lines of its own to standard error; what they say is in our errors too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from holdfast.cli.app import run

    return run(arguments)
