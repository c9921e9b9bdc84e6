"""`holdfast schedules`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from holdfast import schedules
from holdfast.cli import exit_codes, show
from holdfast.cli.options import Address, AsJson, Namespace
from holdfast.cli.runs import talk
from holdfast.schedules import Schedule
from holdfast.settings import DEFAULT_ADDRESS, DEFAULT_NAMESPACE

app = typer.Typer(rich_markup_mode=None)

ScheduleId = Annotated[str, typer.Argument(metavar="SCHEDULE", help='Id of a schedule ("sched_...").')]


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Show and keep schedules."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_schedules(
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Print all schedules, oldest first."""

    async def ask() -> list[Schedule]:
        return [one async for one in schedules.iterate()]

    listed = talk(address, namespace, ask)
    if as_json:
        for one in listed:
            show.print_json(show.schedule_document(one))
    elif listed:
        show.print_schedules(listed)
    else:
        print("no schedules", file=sys.stderr)
    return exit_codes.DONE


@app.command("show")
def show_schedule(
    schedule_id: ScheduleId,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Print one schedule."""
    return _print(talk(address, namespace, lambda: schedules.retrieve(schedule_id)), as_json)


@app.command("create")
def create(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Id of a task.")],
    cron: Annotated[str, typer.Argument(metavar="CRON", help="Five fields in quotes, for example '0 3 * * *'.")],
    timezone: Annotated[str, typer.Option(metavar="ZONE", help="IANA time zone.")] = "UTC",
    key: Annotated[
        str | None, typer.Option("--key", help="Deduplication key: the schedule that has it is updated instead.")
    ] = None,
    external_id: Annotated[str | None, typer.Option(metavar="ID", help="Your own id for it.")] = None,
    misfire: Annotated[str, typer.Option(help="Missed instants: skip, latest or all.")] = "latest",
    overlap: Annotated[
        str, typer.Option(help="While the run before is open: allow, skip, queue or cancel_previous.")
    ] = "allow",
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag of the runs; several are possible.")] = None,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Create a schedule for TASK and print it."""
    given: dict[str, Any] = {"misfire": misfire, "overlap": overlap, **({"tags": tag} if tag else {})}
    made = talk(
        address,
        namespace,
        lambda: schedules.create(
            task, cron=cron, timezone=timezone, deduplication_key=key, external_id=external_id, **given
        ),
    )
    return _print(made, as_json)


@app.command("activate")
def activate(
    schedule_id: ScheduleId,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Have a schedule fire from its next instant on."""
    return _print(talk(address, namespace, lambda: schedules.activate(schedule_id)), as_json)


@app.command("deactivate")
def deactivate(
    schedule_id: ScheduleId,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Stop a schedule from firing, until it is activated."""
    return _print(talk(address, namespace, lambda: schedules.deactivate(schedule_id)), as_json)


@app.command("delete")
def delete(
    schedule_id: ScheduleId,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Delete a schedule. Its runs stay."""
    talk(address, namespace, lambda: schedules.delete(schedule_id))
    return exit_codes.DONE


def _print(schedule: Schedule, as_json: bool) -> int:
    if as_json:
        show.print_json(show.schedule_document(schedule))
    else:
        show.print_schedule(schedule)
    return exit_codes.DONE
