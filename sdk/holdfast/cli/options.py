"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from holdfast.cli.failure import CommandError

DEFAULT_ADDRESS: Final = "127.0.0.1:4653"
"""Where a scheduler listens and where everybody looks for it, unless told otherwise."""

Address = Annotated[
    str,
    typer.Option("--address", envvar="HOLDFAST_ADDRESS", metavar="HOST:PORT[,...]", help="Scheduler replicas."),
]
Namespace = Annotated[str, typer.Option(envvar="HOLDFAST_NAMESPACE", help="Namespace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one document per line.")]


def addresses(text: str) -> list[str]:
    """The addresses of a comma-separated list."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise CommandError(f"{text!r} names no scheduler; write HOST:PORT, for example {DEFAULT_ADDRESS}")
    return found
