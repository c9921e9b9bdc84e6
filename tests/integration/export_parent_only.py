"""Target of a worker that has the parent of the invoice export and not its children."""

from __future__ import annotations

from examples.invoice_export import tasks

from holdfast import registry

for child in (tasks.write_page, tasks.send_ready_email):
    del registry._tasks[child.id]
