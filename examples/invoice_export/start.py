"""Start one export and follow it: `python -m examples.invoice_export.start [--organization acme] [--pages 20]`.

For a worker's container (`docker compose exec worker ...`): the sample of invoices is made beside EXPORT_FILE, where
all workers see it.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from pathlib import Path

from examples.invoice_export.destination import Destination
from examples.invoice_export.source import SAMPLE_ORGANIZATIONS, Source, make_sample
from examples.invoice_export.tasks import Export, export_invoices
from holdfast import runs


def main() -> int:
    """Returns 0 when the export has completed."""
    parser = argparse.ArgumentParser(description="Export the invoices of an organization.")
    parser.add_argument("--organization", choices=SAMPLE_ORGANIZATIONS, default=SAMPLE_ORGANIZATIONS[0])
    parser.add_argument("--pages", type=int, default=20, help="pages to cut the export into (default %(default)s)")
    options = parser.parse_args()
    return asyncio.run(_export(options.organization, options.pages))


async def _export(organization: str, pages: int) -> int:
    destination = Destination(os.environ["EXPORT_FILE"])
    destination.create()
    invoices = destination.path.with_name("invoices.sqlite3")
    source = Source(database=str(invoices)) if invoices.exists() else _sample(invoices)
    source.page_size = math.ceil(source.count(organization) / pages)
    payload = Export(organization_id=organization, source=source, total_pages=source.pages(organization))
    handle = await export_invoices.trigger(payload)
    print(handle.id, flush=True)
    shown = None
    async for run in runs.subscribe(handle):
        if (run.status, run.metadata) != shown:
            shown = (run.status, run.metadata)
            print(f"{run.status} {run.metadata}", flush=True)
    print(await handle.result())
    return 0


def _sample(path: Path) -> Source:
    # Under another name until it is whole: a second start must not find half of it.
    draft = path.with_suffix(f".{os.getpid()}")
    source = make_sample(draft)
    draft.replace(path)
    source.database = str(path)
    return source


if __name__ == "__main__":
    sys.exit(main())
