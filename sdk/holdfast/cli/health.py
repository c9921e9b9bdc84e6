"""What `holdfast health` does. `python -m holdfast.cli.health`, for containers, does it too and loads only gRPC."""

from __future__ import annotations

import os
import sys
from typing import Final

import grpc

from holdfast.cli import exit_codes

METHOD: Final = "/grpc.health.v1.Health/Check"
THE_WHOLE: Final = b""
"""A HealthCheckRequest about the scheduler or worker as a whole."""
SERVING: Final = b"\x08\x01"
"""A HealthCheckResponse that says so. Two messages this small need not the package that belongs to another extra."""
TIMEOUT_S: Final = 3.0
DEFAULT_PORT: Final = "4653"


def check(address: str | None = None) -> int:
    """Ask one after the other until one serves; print one line and return the exit code.

    `address` is HOST:PORT, or several separated by commas. None takes the worker at HOLDFAST_WORKER_HEALTH, else the
    schedulers of HOLDFAST_ADDRESS, else the one of this machine at the port in HOLDFAST_LISTEN, else 127.0.0.1:4653.
    """
    worker = os.environ.get("HOLDFAST_WORKER_HEALTH")
    found = address or worker or os.environ.get("HOLDFAST_ADDRESS")
    found = found or _own_address(os.environ.get("HOLDFAST_LISTEN", ""))
    answers = []
    for one in map(_with_port, filter(None, map(str.strip, found.split(",")))):
        answer = _ask(one)
        if answer == "SERVING":
            print(f"{one} {answer}")
            return exit_codes.DONE
        answers.append(f"{one} {answer}")
    nobody = "the worker does not serve" if found == worker else "no scheduler serves"
    print(f"error: {nobody}: {', '.join(answers)}", file=sys.stderr)
    return exit_codes.UNREACHABLE


def _own_address(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    wildcards = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
    return f"{wildcards.get(host, host)}:{port or DEFAULT_PORT}"


def _with_port(address: str) -> str:
    """As the SDK and the worker read it: a port that is left out is the usual one."""
    return address if ":" in address.rpartition("]")[2] else f"{address}:{DEFAULT_PORT}"


def _ask(address: str) -> str:
    # A proxy meant for the web would swallow the question.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = channel.unary_unary(METHOD, bytes, bytes)(THE_WHOLE, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "SERVING" if answer == SERVING else "NOT_SERVING"


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(check())
