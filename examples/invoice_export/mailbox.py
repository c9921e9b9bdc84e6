"""A local SMTP server that keeps what it receives."""

from __future__ import annotations

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
    """Receives on a free loopback port while it is used as a context manager."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self._controller = Controller(self, hostname="127.0.0.1", port=free_port())

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
        self.mails.extend(Mail(to, subject) for to in envelope.rcpt_tos)
        return "250 Message accepted"

    def __enter__(self) -> Mailbox:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._controller.stop()
