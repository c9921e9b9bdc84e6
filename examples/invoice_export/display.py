"""What the demonstration shows: live progress and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


class Display:
    """Writes to standard output."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._began = time.monotonic()
        self._progress: Progress | None = None

    def title(self, text: str) -> None:
        """Begin a scene."""
        self._console.print(f"\n[bold]{text}[/bold]\n")

    def note(self, text: str) -> None:
        """One fact, with the seconds since the start."""
        self._console.print(f"{time.monotonic() - self._began:6.2f} s  {text}", soft_wrap=True, markup=False)

    @contextmanager
    def progress(self, pages: int) -> Iterator[Callable[[int, str], None]]:
        """While it lasts, the yielded function shows the page that is done and the run's status."""
        if not self._console.is_terminal:
            yield self._plain_progress(pages)
            return
        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console)
        with self._progress as progress:
            bar = progress.add_task("QUEUED", total=pages)
            yield lambda page, status: progress.update(bar, completed=page, description=status)
        self._progress = None

    def stop(self) -> None:
        """Give the terminal back."""
        if self._progress is not None:
            self._progress.stop()

    def pages(self, pages: list[tuple[int, int, float, int, bool]]) -> None:
        """Number, rows, sum, write count and whether it equals the source, of each page."""
        table = Table("page", "rows", "sum", "writes", "equals source", title="\nPages", title_justify="left")
        for column in table.columns[:4]:
            column.justify = "right"
        for page, rows, amount, writes, right in pages:
            table.add_row(str(page), str(rows), f"{amount:,.2f}", str(writes), "yes" if right else "[red]NO[/red]")
        self._console.print(table)

    def mailings(self, members: list[str], counts: dict[str, list[int]]) -> None:
        """How many mails each member got from each mailing."""
        table = Table("member", "sent from the loop", "one keyed child each", title="\nMails", title_justify="left")
        for member, trap, keyed in zip(members, counts["trap"], counts["keyed"], strict=True):
            table.add_row(member, str(trap), str(keyed))
        self._console.print(table)

    def facts(self, facts: list[tuple[str, str]]) -> None:
        """Labelled values."""
        table = Table.grid(padding=(0, 3))
        for label, value in facts:
            table.add_row(label, value)
        self._console.print("", table, "", sep="\n")

    def promises(self, promises: list[tuple[str, bool]]) -> bool:
        """Say of each promise whether it held, and return whether all did."""
        for text, held in promises:
            self._console.print("[green]held  [/green]" if held else "[red]BROKEN[/red]", text)
        return all(held for _, held in promises)

    def _plain_progress(self, pages: int) -> Callable[[int, str], None]:
        last = -1

        def show(page: int, status: str) -> None:
            nonlocal last
            if page != last:
                last = page
                self.note(f"page {page} of {pages} is done, the export is {status}")

        return show
