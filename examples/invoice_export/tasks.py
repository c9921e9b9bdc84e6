"""The tasks of the export.

A worker finds the export file and the mail server in its environment: EXPORT_FILE, and EXPORT_SMTP as HOST:PORT.
"""

from __future__ import annotations

import asyncio
import os
import smtplib
from email.message import EmailMessage
from pathlib import Path

from pydantic import BaseModel

from examples.invoice_export.destination import Destination
from examples.invoice_export.source import Source
from holdfast import Context, Retry, idempotency_keys, metadata, task, wait

CHUNKS = 4
"""Transactions in which a page is written."""


class Export(BaseModel):
    """Export all invoices of an organization."""

    organization_id: str
    source: Source
    total_pages: int
    pause: float = 0.3
    """Seconds between pages, to be kind to whoever receives them."""


class Page(BaseModel):
    """Write one page, from 1."""

    organization_id: str
    source: Source
    page: int


class Ready(BaseModel):
    """Tell an organization that its export is there."""

    organization_id: str
    rows: int


@task(id="export-invoices", retry=Retry(max_attempts=5, factor=1.8))
async def export_invoices(payload: Export) -> str:
    """Export an organization's invoices page by page, then say so by e-mail."""
    rows = 0
    for page in range(1, payload.total_pages + 1):
        key = idempotency_keys.create([payload.organization_id, "page", page])
        one = Page(organization_id=payload.organization_id, source=payload.source, page=page)
        written = await write_page.trigger_and_wait(one, idempotency_key=key)
        rows += written.unwrap()
        metadata.set("page", page)
        metadata.set("rows", rows)
        await wait.for_(seconds=payload.pause)
    done = idempotency_keys.create([payload.organization_id, "export-email"])
    await send_ready_email.trigger(Ready(organization_id=payload.organization_id, rows=rows), idempotency_key=done)
    return f"{rows} rows in {payload.total_pages} pages"


@task(id="write-page")
async def write_page(payload: Page, ctx: Context) -> int:
    """Write one page and return the number of its rows.

    A crash in here means that it is called again: rows replace themselves, so a page is right however often it is
    written. That is what at-least-once asks of code with outside effects.
    """
    destination = Destination(os.environ["EXPORT_FILE"])
    organization, page = payload.organization_id, payload.page
    rows = payload.source.page(organization, page)
    write = destination.begin_page(organization, page, ctx.run.id, os.environ.get("EXPORT_WORKER", ""))
    size = max(1, -(-len(rows) // CHUNKS))
    for first in range(0, len(rows), size):
        destination.write_rows(write, organization, page, first, rows[first : first + size])
        await _while_held(page)
    destination.end_page(write)
    return len(rows)


@task(id="send-ready-email")
def send_ready_email(payload: Ready, ctx: Context) -> None:
    """Send one e-mail. A plain function: it runs in a thread."""
    send_mail(
        to=f"billing@{payload.organization_id.lower().replace(' ', '-')}.example",
        subject=f"Your export of {payload.rows} invoices is ready",
        reference=ctx.run.id,
    )


def send_mail(to: str, subject: str, reference: str) -> None:
    """Send an e-mail by SMTP."""
    message = EmailMessage()
    message["From"] = "exports@shop.example"
    message["To"] = to
    message["Subject"] = subject
    message["X-Reference"] = reference
    message.set_content(f"{subject}.\n")
    host, _, port = os.environ["EXPORT_SMTP"].rpartition(":")
    with smtplib.SMTP(host, int(port), timeout=10) as server:
        server.send_message(message)


async def _while_held(page: int) -> None:
    """For the demonstration and the tests only: wait in the middle of a page while a file asks for it."""
    folder = os.environ.get("EXPORT_HOLD")
    while folder and Path(folder, f"page-{page}").exists():
        await asyncio.sleep(0.02)
