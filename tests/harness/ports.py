"""Free TCP ports."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A loopback port that was free a moment ago. Somebody else may take it before you do; that is rare enough."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
