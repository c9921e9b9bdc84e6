"""Where the scheduler is and who asks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from holdfast import durations, texts
from holdfast.durations import Duration
from holdfast.errors import InvalidArgumentError

DEFAULT_PORT = 4653
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"
DEFAULT_NAMESPACE = "default"
DEFAULT_DEADLINE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a client."""

    addresses: tuple[str, ...]
    api_key: str
    namespace: str
    deadline: float
    """Seconds for which a request is repeated while no scheduler answers."""

    @property
    def shown_addresses(self) -> str:
        """The addresses, for messages."""
        return ", ".join(self.addresses)


def resolve(
    address: str | None = None,
    api_key: str | None = None,
    namespace: str | None = None,
    deadline: Duration | None = None,
) -> Settings:
    """Settings from arguments, else from HOLDFAST_ADDRESS, HOLDFAST_API_KEY and HOLDFAST_NAMESPACE, else defaults.

    Raises: InvalidArgumentError, InvalidDurationError.
    """
    given = address or os.environ.get("HOLDFAST_ADDRESS") or DEFAULT_ADDRESS
    key = os.environ.get("HOLDFAST_API_KEY", "") if api_key is None else api_key
    if not key.isascii() or not key.isprintable():
        raise InvalidArgumentError("HOLDFAST_API_KEY holds characters that a header cannot carry.")
    return Settings(
        parse_addresses(given),
        key,
        texts.check(namespace or os.environ.get("HOLDFAST_NAMESPACE") or DEFAULT_NAMESPACE, "namespace"),
        durations.parse(DEFAULT_DEADLINE if deadline is None else deadline, "deadline").total_seconds(),
    )


def parse_addresses(value: str) -> tuple[str, ...]:
    """A comma-separated list of HOST or HOST:PORT. Raises: InvalidArgumentError."""
    parts = [part.strip() for part in value.split(",")]
    addresses = tuple(_address(part, value) for part in parts if part)
    if not addresses:
        raise InvalidArgumentError(f"address: {value!r} names no scheduler; write HOST:PORT[,HOST:PORT].")
    return addresses


def _address(part: str, whole: str) -> str:
    host, colon, port = part.rpartition(":")
    if not colon or part.endswith("]"):  # a bare host, or a bare [IPv6]
        return f"{part}:{DEFAULT_PORT}"
    if not host or "/" in part or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgumentError(f"address: {part!r} in {whole!r} is not HOST:PORT.")
    return part
