"""`holdfast trigger` and `holdfast runs`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, TypeVar

import grpc
import typer

from holdfast import ids, rpc_errors
from holdfast.cli import exit_codes, show
from holdfast.cli.failure import CommandError
from holdfast.cli.options import Address, AsJson, Namespace
from holdfast.client import Client
from holdfast.settings import DEFAULT_ADDRESS, DEFAULT_NAMESPACE
from holdfast.v1 import payload_pb2, run_pb2, run_service_pb2

T = TypeVar("T")

PAGE_SIZE: Final = 100
DEADLINE_S: Final = 5.0
"""How long a request is repeated while no scheduler answers: enough for one that restarts."""

app = typer.Typer(rich_markup_mode=None)

RunId = Annotated[str, typer.Argument(metavar="RUN", help='Id of a run ("run_...").')]


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Show and cancel runs."""
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
    item = trigger_item(task, read_json(payload), key or [], tag or [])

    async def ask(client: Client) -> tuple[run_pb2.RunHandle, run_pb2.Run | None]:
        handle = await client.trigger(item)
        if not wait:
            return handle, None
        await client.result(handle.run_id)
        return handle, await _get(client, handle.run_id)

    handle, run = _talk(address, namespace, ask)
    if handle.payload_differs:
        print(f"warning: {handle.run_id} has this key and was triggered with another payload", file=sys.stderr)
    if run is not None:
        return _print_end(run, as_json)
    if as_json:
        show.print_json({"id": handle.run_id, "is_cached": handle.is_cached, "payload_differs": handle.payload_differs})
    else:
        print(handle.run_id)
        if handle.is_cached:
            print("this run existed already under the key", file=sys.stderr)
    return exit_codes.DONE


@app.command("list")
def list_runs(
    status: Annotated[str | None, typer.Option(help="Only runs of this status, for example FAILED.")] = None,
    task: Annotated[str | None, typer.Option(help="Only runs of this task.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag.")] = None,
    where: Annotated[
        str | None, typer.Option("--filter", help='More conditions, for example \'queue = "mail" AND version = "7"\'.')
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Most runs to print.")] = 20,
    as_json: AsJson = False,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Print runs, newest first."""
    conditions = [f"{name} = {json.dumps(value)}" for name, value in _conditions(status, task, tag)]
    conditions += [where] if where else []

    async def ask(client: Client) -> list[run_pb2.Run]:
        found: list[run_pb2.Run] = []
        request = run_service_pb2.ListRunsRequest(namespace=namespace, filter=" AND ".join(conditions))
        while True:
            request.page_size = min(PAGE_SIZE, limit - len(found))
            page = await client.call(lambda endpoint: endpoint.runs.ListRuns, request)
            found.extend(page.runs)
            request.page_token = page.next_page_token
            if not page.next_page_token or len(found) >= limit:
                return found

    runs = _talk(address, namespace, ask)
    if as_json:
        for run in runs:
            show.print_json(show.run_document(run))
    elif runs:
        show.print_runs(runs, datetime.now(UTC))
    else:
        print("no runs", file=sys.stderr)
    return exit_codes.DONE


@app.command("show")
def show_run(
    run_id: RunId, as_json: AsJson = False, address: Address = DEFAULT_ADDRESS, namespace: Namespace = DEFAULT_NAMESPACE
) -> int:
    """Print one run with its attempts and checkpoints, and why it stands where it stands."""

    async def ask(client: Client) -> tuple[run_pb2.Run, str]:
        run = await _get(client, run_id, full=True)
        if show.is_final(run):
            return run, ""
        request = run_service_pb2.ExplainRunRequest(namespace=namespace, run_id=run_id)
        answer = await client.call(lambda endpoint: endpoint.runs.ExplainRun, request)
        return run, answer.sentence

    run, sentence = _talk(address, namespace, ask)
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
    """Cancel runs. Once accepted, a run ends CANCELED whatever happens later."""

    async def ask(client: Client) -> None:
        for run_id in run_ids:
            request = run_service_pb2.CancelRunRequest(namespace=namespace, run_id=run_id)
            answer = await client.call(lambda endpoint: endpoint.runs.CancelRun, request)
            if as_json:
                show.print_json(show.run_document(answer.run) | {"accepted": answer.accepted})
            else:
                print(f"{run_id}  {show.status_name(answer.run)}{'' if answer.accepted else '  (nothing changed)'}")

    _talk(address, namespace, ask)
    return exit_codes.DONE


@app.command("watch")
def watch(
    run_id: RunId, as_json: AsJson = False, address: Address = DEFAULT_ADDRESS, namespace: Namespace = DEFAULT_NAMESPACE
) -> int:
    """Print the state of a run whenever it changes, until it has ended."""
    shown = ""

    def on_change(run: run_pb2.Run) -> None:
        nonlocal shown
        state = show.state_text(run)
        if as_json:
            show.print_json(show.run_document(run))
        elif state != shown:
            shown = state
            print(f"{datetime.now().astimezone():%H:%M:%S}  {state}", flush=True)

    async def ask(client: Client) -> run_pb2.Run:
        return await follow(client, run_id, on_change)

    return _exit_code(_talk(address, namespace, ask))


async def follow(client: Client, run_id: str, on_change: Callable[[run_pb2.Run], None]) -> run_pb2.Run:
    """Call `on_change` with every state of the run until it has ended, over restarts of the scheduler."""
    connection = client.connection
    request = run_service_pb2.WatchRunsRequest(namespace=client.settings.namespace, run_id=run_id)
    clock = asyncio.get_running_loop().time
    lost_at: float | None = None
    back_off = connection.back_off()
    while True:
        endpoint = connection.endpoint()
        try:
            async for change in endpoint.runs.WatchRuns(request, metadata=connection.metadata):
                lost_at, back_off = None, connection.back_off()
                request.cursor = change.cursor
                on_change(change.run)
                if show.is_final(change.run):
                    ended: run_pb2.Run = change.run
                    return ended
        except grpc.aio.AioRpcError as error:
            lost_at = lost_at or clock()
            if not rpc_errors.may_repeat(error) or clock() - lost_at > client.settings.deadline:
                raise rpc_errors.of_call(error, endpoint.address) from None
        connection.fail_over(endpoint)
        await asyncio.sleep(back_off.next())


def trigger_item(task: str, payload: bytes, key: list[str], tags: list[str]) -> run_pb2.TriggerItem:
    """The item to trigger. The client chooses the run's id, so that a call that is sent again makes no second run."""
    item = run_pb2.TriggerItem(
        run_id=ids.new_run_id(),
        task_id=task,
        payload=payload_pb2.Payload(data=payload, content_type="application/json"),
        options=run_pb2.TriggerOptions(tags=tags),
    )
    if key:
        parts = [run_pb2.KeyPart(text=part) for part in key]
        item.idempotency_key.CopyFrom(run_pb2.IdempotencyKey(parts=parts, scope=run_pb2.KEY_SCOPE_GLOBAL))
    return item


def read_json(text: str) -> bytes:
    """The JSON that an argument holds or names, in UTF-8. Raises CommandError when it is malformed."""
    source = "the payload"
    try:
        if text == "-":
            source, text = "standard input", sys.stdin.read()
        elif text.startswith("@"):
            source = text[1:]
            text = Path(source).read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=_refuse_constant)
    except OSError as error:
        raise CommandError(f"cannot read {source}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise CommandError(
            f"{source} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; "
            "a text needs its own quotes, as in '\"text\"'"
        ) from error
    except ValueError as error:
        raise CommandError(f"{source} is not JSON: {error}") from error
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _talk(address: str, namespace: str, ask: Callable[[Client], Awaitable[T]]) -> T:
    """Run `ask` with a client of its own. Raises what the SDK raises."""

    async def main() -> T:
        async with Client(address, namespace=namespace, deadline=DEADLINE_S) as client:
            return await ask(client)

    return asyncio.run(main())


async def _get(client: Client, run_id: str, full: bool = False) -> run_pb2.Run:
    view = run_service_pb2.RUN_VIEW_FULL if full else run_service_pb2.RUN_VIEW_BASIC
    request = run_service_pb2.GetRunRequest(namespace=client.settings.namespace, run_id=run_id, view=view)
    answer = await client.call(lambda endpoint: endpoint.runs.GetRun, request)
    run: run_pb2.Run = answer.run
    return run


def _print_end(run: run_pb2.Run, as_json: bool) -> int:
    if as_json:
        show.print_json(show.run_document(run))
    elif run.status == run_pb2.RUN_STATUS_COMPLETED:
        print(json.dumps(show.value_of(run.output), ensure_ascii=False))
    else:
        about = f"{run.error.type}: {run.error.message}".removeprefix(": ")
        print(f"{run.id} ended {show.status_name(run)}: {about}".rstrip(": "), file=sys.stderr)
    return _exit_code(run)


def _exit_code(run: run_pb2.Run) -> int:
    return exit_codes.DONE if run.status == run_pb2.RUN_STATUS_COMPLETED else exit_codes.NOT_COMPLETED


def _conditions(status: str | None, task: str | None, tag: str | None) -> list[tuple[str, str]]:
    given = (("status", status.upper() if status else None), ("task", task), ("tag", tag))
    return [(name, value) for name, value in given if value]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
