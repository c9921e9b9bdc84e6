"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Address = Annotated[
    str,
    typer.Option("--address", envvar="HOLDFAST_ADDRESS", metavar="HOST:PORT[,...]", help="Scheduler replicas."),
]
Namespace = Annotated[str, typer.Option(envvar="HOLDFAST_NAMESPACE", help="Namespace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one document per line.")]
