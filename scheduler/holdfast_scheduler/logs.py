"""The log of a run: as many records as the limit `log_records` allows, and one that says how many more there were."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.v1.run_service_pb2 import LogRecord
from holdfast_scheduler import store
from holdfast_scheduler.database import Transaction

COUNTS_KEPT: Final = 10_000
"""Executions whose log is not counted in the database again."""
NOTE_FENCE: Final = 2**31 - 1
"""The place of the record that says how many were dropped: after all others."""

Row = tuple[Any, ...]


@dataclass(slots=True)
class _Count:
    kept: int
    dropped: int = 0


class LogCounts:
    """How long the logs of runs are that execute here. Another scheduler may have added to one that comes back under
    the same fence: then it may become a little longer than the limit."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, bytes, int], _Count] = OrderedDict()

    def clear(self) -> None:
        """A commit has failed: what it counted does not count."""
        self._counts.clear()

    def write(self, tx: Transaction, namespace: str, rows: list[Row], limit: int) -> None:
        """Insert log records, rows as for `store.insert_logs`, up to the limit."""
        self._learn(tx, namespace, rows)
        written: list[Row] = []
        notes: dict[bytes, Row] = {}
        for row in rows:
            run_id, fence = row[1], row[2]
            count = self._counts[namespace, run_id, fence]
            if count.kept < limit:
                count.kept += 1
                written.append(row)
            else:
                count.dropped += 1
                notes[run_id] = (namespace, run_id, NOTE_FENCE, 0, 0, _note(row[5], count.dropped, limit))
        if written:
            store.insert_logs(tx, written)
        if notes:
            store.upsert_logs(tx, list(notes.values()))
        while len(self._counts) > COUNTS_KEPT:
            self._counts.popitem(last=False)

    def _learn(self, tx: Transaction, namespace: str, rows: list[Row]) -> None:
        unknown: dict[bytes, int] = {}
        for _, run_id, fence, report, *_ in rows:
            if (namespace, run_id, fence) in self._counts:
                continue
            if (fence, report) == (1, 1):
                self._counts[namespace, run_id, fence] = _Count(0)  # its very first report: there is nothing to count
            else:
                unknown[run_id] = fence
        if not unknown:
            return
        found = store.count_logs(tx, namespace, sorted(unknown), NOTE_FENCE)
        for run_id, fence in unknown.items():
            kept, note = found.get(run_id, (0, None))
            dropped = json.loads(LogRecord.FromString(note).fields)["dropped"] if note is not None else 0
            self._counts[namespace, run_id, fence] = _Count(kept, dropped)


def _note(last: bytes, dropped: int, limit: int) -> bytes:
    """The record that says so; its instant and attempt are those of the last one that was dropped."""
    before = LogRecord.FromString(last)
    note = LogRecord(
        at=before.at if before.HasField("at") else Timestamp(),
        level="warning",
        message=f"{dropped:,} more records were dropped: the limit log_records is {limit:,} for one run",
        fields=json.dumps({"dropped": dropped}).encode(),
        attempt=before.attempt,
    )
    return note.SerializeToString()
