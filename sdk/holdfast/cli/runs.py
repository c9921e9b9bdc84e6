"""`holdfast trigger` and `holdfast runs`."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from google.protobuf.duration_pb2 import Duration

from holdfast import ids
from holdfast.cli import exit_codes, show
from holdfast.cli.failure import CommandError
from holdfast.cli.options import DEFAULT_ADDRESS, Address, AsJson, Namespace
from holdfast.cli.remote import CALL_TIMEOUT_S, Remote
from holdfast.v1 import payload_pb2, run_pb2, run_service_pb2, run_service_pb2_grpc

PAGE_SIZE: Final = 100
WAIT_S: Final = 30
"""Length of one WaitRun call; the command asks again until the run has ended."""

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
    namespace: Namespace = "default",
) -> int:
    """Trigger a run of TASK and print its id; with --wait, its output."""
    item = run_service_item(task, read_json(payload), key or [], tag or [])
    remote = Remote(address, namespace)
    with remote.runs() as stub:
        request = run_service_pb2.TriggerRequest(namespace=namespace, items=[item])
        response = stub.Trigger(request, timeout=CALL_TIMEOUT_S, metadata=remote.metadata)
        outcome = response.outcomes[0]
        if outcome.HasField("error"):
            raise item_error(outcome.error)
        handle = outcome.handle
        if handle.payload_differs:
            print(f"warning: {handle.run_id} has this key and was triggered with another payload", file=sys.stderr)
        if not wait:
            if as_json:
                show.print_json(
                    {"id": handle.run_id, "is_cached": handle.is_cached, "payload_differs": handle.payload_differs}
                )
            else:
                print(handle.run_id)
                if handle.is_cached:
                    print("this run existed already under the key", file=sys.stderr)
            return exit_codes.DONE
        run = wait_for(remote, stub, handle.run_id)
    return _print_end(run, as_json)


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
    namespace: Namespace = "default",
) -> int:
    """Print runs, newest first."""
    conditions = [f"{name} = {json.dumps(value)}" for name, value in _conditions(status, task, tag)]
    conditions += [where] if where else []
    runs: list[run_pb2.Run] = []
    remote = Remote(address, namespace)
    with remote.runs() as stub:
        request = run_service_pb2.ListRunsRequest(namespace=namespace, filter=" AND ".join(conditions))
        while True:
            request.page_size = min(PAGE_SIZE, limit - len(runs))
            page = stub.ListRuns(request, timeout=CALL_TIMEOUT_S, metadata=remote.metadata)
            runs.extend(page.runs)
            request.page_token = page.next_page_token
            if not page.next_page_token or len(runs) >= limit:
                break
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
    run_id: RunId, as_json: AsJson = False, address: Address = DEFAULT_ADDRESS, namespace: Namespace = "default"
) -> int:
    """Print one run with its attempts and checkpoints, and why it stands where it stands."""
    remote = Remote(address, namespace)
    with remote.runs() as stub:
        request = run_service_pb2.GetRunRequest(namespace=namespace, run_id=run_id, view=run_service_pb2.RUN_VIEW_FULL)
        run = stub.GetRun(request, timeout=CALL_TIMEOUT_S, metadata=remote.metadata).run
        explain = run_service_pb2.ExplainRunRequest(namespace=namespace, run_id=run_id)
        sentence = ""
        if not show.is_final(run):
            sentence = stub.ExplainRun(explain, timeout=CALL_TIMEOUT_S, metadata=remote.metadata).sentence
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
    namespace: Namespace = "default",
) -> int:
    """Cancel runs. Once accepted, a run ends CANCELED whatever happens later."""
    remote = Remote(address, namespace)
    with remote.runs() as stub:
        for run_id in run_ids:
            request = run_service_pb2.CancelRunRequest(namespace=namespace, run_id=run_id)
            response = stub.CancelRun(request, timeout=CALL_TIMEOUT_S, metadata=remote.metadata)
            if as_json:
                show.print_json(show.run_document(response.run) | {"accepted": response.accepted})
            else:
                print(f"{run_id}  {show.status_name(response.run)}{'' if response.accepted else '  (nothing changed)'}")
    return exit_codes.DONE


@app.command("watch")
def watch(
    run_id: RunId, as_json: AsJson = False, address: Address = DEFAULT_ADDRESS, namespace: Namespace = "default"
) -> int:
    """Print the state of a run whenever it changes, until it has ended."""
    remote = Remote(address, namespace)
    with remote.runs() as stub:
        request = run_service_pb2.WatchRunsRequest(namespace=namespace, run_id=run_id)
        run = run_pb2.Run()
        shown = ""
        for change in stub.WatchRuns(request, metadata=remote.metadata):
            run = change.run
            if as_json:
                show.print_json(show.run_document(run))
            elif (line := show.change_line(run)).split("  ", 1)[1] != shown:
                shown = line.split("  ", 1)[1]
                print(line, flush=True)
            if show.is_final(run):
                break
    return _exit_code(run)


def run_service_item(task: str, payload: bytes, key: list[str], tags: list[str]) -> run_pb2.TriggerItem:
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


def item_error(error: run_pb2.ItemError) -> CommandError:
    """Why there is no run, as an exit code."""
    code = exit_codes.REFUSED
    if error.reason == "TASK_NOT_FOUND":
        code = exit_codes.NOT_FOUND
    elif error.reason in ("INVALID_ARGUMENT", "INVALID_KEY", "TOO_LARGE"):
        code = exit_codes.WRONG_USE
    return CommandError(error.message, code)


def wait_for(remote: Remote, stub: run_service_pb2_grpc.RunServiceStub, run_id: str) -> run_pb2.Run:
    """Wait until the run has ended."""
    request = run_service_pb2.WaitRunRequest(
        namespace=remote.namespace, run_id=run_id, timeout=Duration(seconds=WAIT_S)
    )
    while True:
        timeout = WAIT_S + CALL_TIMEOUT_S
        run: run_pb2.Run = stub.WaitRun(request, timeout=timeout, metadata=remote.metadata, wait_for_ready=True).run
        if show.is_final(run):
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
    return exit_codes.DONE if run.status == run_pb2.RUN_STATUS_COMPLETED else exit_codes.RUN_NOT_COMPLETED


def _conditions(status: str | None, task: str | None, tag: str | None) -> list[tuple[str, str]]:
    given = (("status", status.upper() if status else None), ("task", task), ("tag", tag))
    return [(name, value) for name, value in given if value]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
