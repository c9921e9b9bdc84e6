"""`holdfast trigger` and `holdfast runs`."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, cast

import typer

from holdfast import idempotency_keys, runs, tasks
from holdfast.cli import exit_codes, show
from holdfast.cli.failure import CommandError
from holdfast.cli.options import Address, AsJson, Namespace
from holdfast.client import Client
from holdfast.errors import TaskNotFoundError
from holdfast.filters import Conditions
from holdfast.handles import RunHandle
from holdfast.options import TriggerOptions
from holdfast.run import Run
from holdfast.settings import DEFAULT_ADDRESS, DEFAULT_NAMESPACE
from holdfast.statuses import RunStatus

T = TypeVar("T")

PAGE_SIZE: Final = 100
DEADLINE_S: Final = 5.0
"""How long a request is repeated while no scheduler answers: enough for one that restarts."""

app = typer.Typer(rich_markup_mode=None)

RunId = Annotated[str, typer.Argument(metavar="RUN", help='Id of a run ("run_...").')]


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Show, cancel and replay runs."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def trigger(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Id of a task.")],
    payload: Annotated[
        str, typer.Argument(metavar="[JSON]", help="The payload; @FILE reads a file and - standard input.")
    ] = "null",
    key: Annotated[
        list[str] | None, typer.Option("--key", help="Idempotency key; several make one key of several parts.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be given several times.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and print the output.")] = False,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Trigger a run of TASK and print its id; with --wait, its output."""
    value = read_json(payload)
    options: TriggerOptions = {}
    if key:
        options["idempotency_key"] = idempotency_keys.create(key, scope="global")
    if tag:
        options["tags"] = tag

    async def ask() -> tuple[RunHandle[Any], Run | None]:
        handle = await tasks.trigger(task, value, **options)
        if not wait:
            return handle, None
        await handle.wait()
        return handle, await runs.retrieve(handle)

    logging.getLogger("holdfast").setLevel(logging.ERROR)  # what the SDK warns of is said below
    try:
        handle, run = talk(address, namespace, ask)
    except TaskNotFoundError as error:
        raise CommandError(f"{error} (asked in namespace {namespace!r} at {address})", exit_codes.NOT_FOUND) from error
    if handle.payload_differs:
        print(f"warning: {handle.id} has this key and was triggered with another payload", file=sys.stderr)
    if run is not None:
        return _print_end(run, as_json)
    if as_json:
        show.print_json({"id": handle.id, "is_cached": handle.is_cached, "payload_differs": handle.payload_differs})
    else:
        print(handle.id)
        if handle.is_cached and not handle.payload_differs:
            print("this run existed already under the key", file=sys.stderr)
    return exit_codes.DONE


@app.command("list")
def list_runs(
    status: Annotated[str | None, typer.Option(help="Only runs of this status, for example FAILED.")] = None,
    task: Annotated[str | None, typer.Option(help="Only runs of this task.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only runs of this queue.")] = None,
    parent: Annotated[str | None, typer.Option(metavar="RUN", help="Only runs that this run triggered.")] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Most runs to print.")] = 20,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Print runs, newest first."""
    if status is not None and status.upper() not in RunStatus.__members__:
        raise CommandError(f"--status {status!r} is none of {', '.join(RunStatus)}")
    given = {"status": status and status.upper(), "task": task, "tag": tag, "queue": queue, "parent": parent}
    conditions = cast(Conditions, {name: value for name, value in given.items() if value is not None})

    async def ask() -> list[Run]:
        found: list[Run] = []
        async for run in runs.iterate(limit=min(limit, PAGE_SIZE), **conditions):
            found.append(run)
            if len(found) == limit:
                break
        return found

    listed = talk(address, namespace, ask)
    if as_json:
        for run in listed:
            show.print_json(show.run_document(run))
    elif listed:
        show.print_runs(listed)
    else:
        print("no runs", file=sys.stderr)
    return exit_codes.DONE


@app.command("show")
def show_run(
    run_id: RunId,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Print one run with its attempts and checkpoints, and why it stands where it stands."""

    async def ask() -> tuple[Run, str]:
        run = await runs.retrieve(run_id, full=True)
        if run.is_final:
            return run, ""
        return run, (await runs.explain(run_id)).sentence

    run, sentence = talk(address, namespace, ask)
    if as_json:
        show.print_json(show.run_document(run, full=True) | {"why": sentence})
    else:
        show.print_run(run, sentence)
    return exit_codes.DONE


@app.command("cancel")
def cancel(
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN...", help='Ids of runs ("run_...").')],
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Cancel runs. Once accepted, a run ends CANCELED whatever happens later; a run that had ended stays as it is."""

    async def ask() -> None:
        for run_id in run_ids:
            run = await runs.cancel(run_id)
            if as_json:
                show.print_json(show.run_document(run))
            else:
                print(f"{run_id}  {run.status}", flush=True)

    talk(address, namespace, ask)
    return exit_codes.DONE


@app.command("replay")
def replay(
    run_id: RunId,
    payload: Annotated[
        str | None,
        typer.Argument(metavar="[JSON]", help="Another payload; @FILE reads a file and - standard input."),
    ] = None,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Make a new run with the payload of an old one, and print its id. The old one stays as it is."""
    values = [] if payload is None else [read_json(payload)]
    handle = talk(address, namespace, lambda: runs.replay(run_id, *values))
    if as_json:
        show.print_json({"id": handle.id})
    else:
        print(handle.id)
    return exit_codes.DONE


@app.command("logs")
def logs(
    run_id: RunId,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Print what a run has logged so far, oldest line first."""

    async def ask() -> bool:
        token, found = "", False
        while True:
            page = await runs.logs(run_id, page_token=token)
            for line in page:
                found = True
                if as_json:
                    show.print_json(show.log_document(line))
                else:
                    print(show.log_text(line))
            token = page.next_page_token
            if not token:
                return found

    if not talk(address, namespace, ask):
        print("nothing logged so far", file=sys.stderr)
    return exit_codes.DONE


@app.command("watch")
def watch(
    run_id: RunId,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Print the state of a run whenever it changes, until it has ended."""

    async def ask() -> RunStatus | None:
        shown, status = "", None
        async for run in runs.subscribe(run_id):
            status = run.status
            if as_json:
                show.print_json(show.run_document(run))
            elif (state := show.state_text(run)) != shown:
                shown = state
                print(f"{datetime.now().astimezone():%H:%M:%S}  {state}", flush=True)
        return status

    return _exit_code(talk(address, namespace, ask))


def read_json(text: str) -> Any:
    """The JSON value that an argument holds or names. Raises CommandError when it is malformed."""
    source = "the payload"
    try:
        if text == "-":
            source, text = "standard input", sys.stdin.read()
        elif text.startswith("@"):
            source = text[1:]
            text = Path(source).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_refuse_constant)
    except OSError as error:
        raise CommandError(f"cannot read {source}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise CommandError(
            f"{source} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; "
            "a text needs its own quotes, as in '\"text\"'"
        ) from error
    except ValueError as error:
        raise CommandError(f"{source} is not JSON: {error}") from error


def talk(address: str, namespace: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `ask` with a client of its own in use. Raises what the SDK raises."""

    async def main() -> T:
        async with Client(address, namespace=namespace, deadline=DEADLINE_S) as client:
            with client.use():
                return await ask()

    return asyncio.run(main())


def _print_end(run: Run, as_json: bool) -> int:
    if as_json:
        show.print_json(show.run_document(run))
    elif run.status == RunStatus.COMPLETED:
        show.print_json(run.output)
    else:
        print(f"error: {run.id} ended {run.status}" + (f": {run.error}" if run.error else ""), file=sys.stderr)
    return _exit_code(run.status)


def _exit_code(status: RunStatus | None) -> int:
    return exit_codes.DONE if status == RunStatus.COMPLETED else exit_codes.NOT_COMPLETED


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
