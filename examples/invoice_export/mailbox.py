"""A local SMTP server that keeps what it receives.

`python -m examples.invoice_export.mailbox HOST:PORT` prints a line for each e-mail, until it is stopped.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from email import message_from_bytes
from types import TracebackType
from typing import Any

from aiosmtpd.controller import Controller

from examples.invoice_export.processes import free_port


@dataclass(frozen=True, slots=True)
class Mail:
    """One e-mail that arrived."""

    to: str
    subject: str


class Mailbox:
    """Receives at `address`, by default a free loopback port, while it is used as a context manager."""

    def __init__(self, address: str = "", on_mail: Callable[[Mail], None] | None = None) -> None:
        self.mails: list[Mail] = []
        self._on_mail = on_mail or self.mails.append
        host, _, port = address.rpartition(":")
        self._controller = Controller(self, hostname=host or "127.0.0.1", port=int(port or free_port()))

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self._controller.hostname}:{self._controller.port}"

    def with_subject(self, text: str) -> list[Mail]:
        """Mails whose subject holds `text`."""
        return [mail for mail in self.mails if text in mail.subject]

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        """Called by the server for each mail."""
        subject = str(message_from_bytes(envelope.content)["Subject"])
        for to in envelope.rcpt_tos:
            self._on_mail(Mail(to, subject))
        return "250 Message accepted"

    def __enter__(self) -> Mailbox:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._controller.stop()


def _print(mail: Mail) -> None:
    print(f"e-mail to={mail.to} subject={mail.subject!r}", flush=True)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with Mailbox(sys.argv[1], _print) as mailbox:
        print(f"mailbox ready address={mailbox.address}", flush=True)
        signal.pause()
