"""The tree of commands, and how all of them end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from typing import Annotated

import typer
from typer.main import get_command

from holdfast.cli import exit_codes, queues, runs, schedules, servers
from holdfast.cli.failure import CommandError, exit_code_of
from holdfast.errors import HoldfastError

# Typer brings its own copy of Click's exceptions in new versions and takes Click's in old ones.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="holdfast",
    help="Durable background tasks that survive crashes.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("dev")(servers.dev)
app.command("scheduler")(servers.scheduler)
app.command("worker")(servers.worker)
app.command("migrate")(servers.migrate)
app.command("health")(servers.health)
app.command("trigger")(runs.trigger)
app.add_typer(runs.app, name="runs")
app.add_typer(queues.app, name="queues")
app.add_typer(schedules.app, name="schedules")


def _print_version(asked: bool) -> None:
    if asked:
        build = os.environ.get("HOLDFAST_BUILD", "")
        print(f"holdfast {installed_version('holdfast')}" + (f" (build {build})" if build else ""))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Durable background tasks that survive crashes."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors of the user's making become one line on standard error."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = get_command(app).main(args, prog_name="holdfast", standalone_mode=False)
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except HoldfastError as error:
        return _fail(str(error), exit_code_of(error))
    except _UsageError as error:
        return _fail(_usage_message(error), exit_codes.WRONG_USE)
    except (KeyboardInterrupt, typer.Abort):
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # The reader (head, a pager) has left. Python would complain when it flushes at exit, so output goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.DONE
    return result if isinstance(result, int) else exit_codes.DONE


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _usage_message(error: Exception) -> str:
    describe = getattr(error, "format_message", None)
    message = str(describe() if describe else error)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "holdfast"
    return f"{message} (see `{command} --help`)"
