"""Log output for people and for machines. Everything that is written has passed redaction."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from pipeline.printable import printable
from pipeline.redact import redact


class TextFormatter(logging.Formatter):
    """The message, redacted; tracebacks only where a record brings one (``--debug``)."""

    def format(self, record: logging.LogRecord) -> str:
        """Format and redact."""
        return redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class calls it so
        """Without what a terminal would take as an order; a traceback is added behind it."""
        record.message = printable(record.message, "\n\t")
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and what the record brings along."""

    def format(self, record: logging.LogRecord) -> str:
        """Format and redact."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        extra = getattr(record, "data", None)
        if extra is not None:
            entry["data"] = extra
        if record.exc_info:
            entry["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(entry, default=str)


def set_up(log_format: str, *, quiet: bool, debug: bool, console: Console) -> None:
    """Send the package's log to stderr: warnings only when ``quiet``, everything with ``debug``."""
    handler: logging.Handler
    if log_format == "json":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
    elif console.is_terminal:
        handler = RichHandler(console=console, show_path=False, markup=False, omit_repeated_times=False)
        handler.setFormatter(TextFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
