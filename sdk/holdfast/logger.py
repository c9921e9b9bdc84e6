"""The log of the run: lines that travel with it, for `runs.logs` and `holdfast runs logs`.

    logger.info("page written", page=7, rows=120)

A line goes to the logger "holdfast.run" of the standard library as well; outside a run only there. A body that is
re-entered does not repeat the lines before new ground. Those after the last checkpoint before a crash may come twice.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from holdfast import _scope, payloads, texts
from holdfast.errors import PayloadError
from holdfast.v1.run_service_pb2 import LogRecord

MAX_MESSAGE_CHARS: Final = 8 * 1024
"""A longer message is cut."""
MAX_FIELDS_BYTES: Final = 8 * 1024
"""Larger fields are left out, with a note."""

_standard = logging.getLogger("holdfast.run")


def debug(message: str, /, **fields: Any) -> None:
    """Log a line of level "debug", with fields that JSON can say."""
    _log(logging.DEBUG, "debug", message, fields)


def info(message: str, /, **fields: Any) -> None:
    """Log a line of level "info", with fields that JSON can say."""
    _log(logging.INFO, "info", message, fields)


def warning(message: str, /, **fields: Any) -> None:
    """Log a line of level "warning", with fields that JSON can say."""
    _log(logging.WARNING, "warning", message, fields)


def error(message: str, /, **fields: Any) -> None:
    """Log a line of level "error", with fields that JSON can say."""
    _log(logging.ERROR, "error", message, fields)


def _log(number: int, level: str, message: object, fields: dict[str, Any]) -> None:
    # A line of a log must not fail what it tells of: what does not fit is cut, what cannot be encoded is described.
    text = texts.clean(str(message), MAX_MESSAGE_CHARS)
    scope = _scope.current()
    run = ""
    if scope is not None:
        record = LogRecord(level=level, message=text, fields=_encoded(fields))
        record.at.GetCurrentTime()
        if not scope.log(record):
            return
        run = scope.ctx.run.id
    if _standard.isEnabledFor(number):
        suffix = "".join(f" {name}={value!r}" for name, value in fields.items())
        _standard.log(number, "%s%s%s", f"run={run} " if run else "", text, suffix)


def _encoded(fields: dict[str, Any]) -> bytes:
    if not fields:
        return b""
    try:
        return payloads.encode_any(fields, "log fields", "log fields", MAX_FIELDS_BYTES)
    except PayloadError:
        pass
    try:
        shown = {name: texts.clean(repr(value), 256) for name, value in fields.items()}
        return payloads.encode_any(shown, "log fields", "log fields", MAX_FIELDS_BYTES)
    except Exception as error:
        return payloads.encode_any({"fields_left_out": type(error).__name__}, "log fields")
