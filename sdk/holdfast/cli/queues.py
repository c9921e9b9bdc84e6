"""`holdfast queues`."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast import queues
from holdfast.cli import exit_codes, show
from holdfast.cli.options import Address, AsJson, Namespace
from holdfast.cli.runs import talk
from holdfast.queues import QueueState
from holdfast.settings import DEFAULT_ADDRESS, DEFAULT_NAMESPACE

app = typer.Typer(rich_markup_mode=None)

QueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="Name of a queue; a task's own is task/ID.")]


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Show, pause and resume queues."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_queues(
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Print all queues with their limits, and how many of their runs wait and execute."""
    return _print(talk(address, namespace, queues.list), as_json)


@app.command("pause")
def pause(
    name: QueueName,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Start nothing of a queue until it is resumed; what executes goes on."""
    return _print([talk(address, namespace, lambda: queues.pause(name))], as_json)


@app.command("resume")
def resume(
    name: QueueName,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """End the pause of a queue."""
    return _print([talk(address, namespace, lambda: queues.resume(name))], as_json)


def _print(found: list[QueueState], as_json: bool) -> int:
    if as_json:
        for queue in found:
            show.print_json(show.queue_document(queue))
    else:
        show.print_queues(found)
    return exit_codes.DONE
