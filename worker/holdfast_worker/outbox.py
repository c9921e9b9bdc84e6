"""What an execution has to report besides its durable calls: metadata, tags and log records. Safe in threads.

It travels with the next report, or by itself after `FLUSH_SECONDS`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from holdfast import texts
from holdfast.v1.run_service_pb2 import LogRecord
from holdfast.v1.worker_service_pb2 import MetadataOperation, Report
from holdfast_worker.metadata import Metadata

MAX_LOG_RECORDS: Final = 10_000
"""Log records of one execution; the rest is dropped, and one record says so."""
MAX_UNSENT_LOG_BYTES: Final = 512 * 1024
"""Log records that wait for one report; more are dropped, and one record says how many."""


class Outbox:
    """See the module."""

    def __init__(self, metadata: Metadata, tags: Sequence[str] = ()) -> None:
        """`tags` are those that the run has."""
        self.metadata = metadata
        self._all_tags = dict.fromkeys(tags)
        self._lock = threading.Lock()
        self._tags: list[str] = []
        self._logs: list[LogRecord] = []
        self._log_bytes = 0
        self._log_count = 0
        self._dropped = 0

    @property
    def has_unsent(self) -> bool:
        """Whether something waits to be reported."""
        return bool(self._tags or self._logs or self.metadata.has_unsent)

    def add_tags(self, tags: Sequence[str]) -> None:
        """Tags for the run. Raises: InvalidArgumentError when it would have more than it may; then none is added."""
        with self._lock:
            new = [tag for tag in tags if tag not in self._all_tags]
            texts.check_tags([*self._all_tags, *new], "tags.add")
            self._all_tags.update(dict.fromkeys(new))
            self._tags.extend(new)

    def add_log(self, record: LogRecord) -> None:
        """A line of the run's log. It is dropped when there are too many."""
        with self._lock:
            size = record.ByteSize()
            if self._log_count >= MAX_LOG_RECORDS or self._log_bytes + size > MAX_UNSENT_LOG_BYTES:
                self._dropped += 1
                return
            self._log_count += 1
            self._log_bytes += size
            self._logs.append(record)
            if self._log_count == MAX_LOG_RECORDS:
                self._logs.append(
                    _note(record, f"the log ends here: it has {MAX_LOG_RECORDS:,} lines of this execution")
                )

    def fill(self, report: Report, *, is_committing: bool) -> None:
        """Put all that waits into a report. `is_committing` says that it carries a checkpoint or ends the attempt."""
        operations = self.metadata.take(is_committing=is_committing)
        if operations:
            report.metadata.extend(operations)
        if self._tags or self._logs:
            with self._lock:
                report.add_tags.extend(self._tags)
                if self._dropped and self._logs and self._log_count < MAX_LOG_RECORDS:
                    self._logs.append(_note(self._logs[-1], f"{self._dropped:,} lines came too fast and were dropped"))
                report.logs.extend(self._logs)
                self._tags, self._logs, self._log_bytes, self._dropped = [], [], 0, 0

    def take_back(self, metadata: Sequence[MetadataOperation], tags: Sequence[str], logs: Sequence[LogRecord]) -> None:
        """A report was refused: what it took along goes with the next."""
        self.metadata.take_back(metadata)
        with self._lock:
            self._tags[:0] = tags
            self._logs[:0] = logs


def _note(after: LogRecord, message: str) -> LogRecord:
    note = LogRecord(level="warning", message=message, attempt=after.attempt)
    note.at.CopyFrom(after.at)
    return note
