"""Target of a worker that has the children of the invoice export and not their parent."""

from __future__ import annotations

from examples.invoice_export import tasks

from holdfast import registry

del registry._tasks[tasks.export_invoices.id]
