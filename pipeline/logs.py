"""Log output for people and for machines. Everything that is written has passed redaction.

A thread of its own writes what a line says: standard error may be a pipe that nobody reads, and neither the
line nor its end waits for that.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from pipeline.printable import on_terminal, printable
from pipeline.redact import redact

MOST_RECORDS = 10_000
"""That wait to be written; further ones are counted."""
MOMENT_SECONDS = 0.05
"""For which a line waits for the reader, who hangs after that, until something is written again."""
HANGING_SECONDS, LAST_SECONDS = 2.0, 10.0
"""Without a line written, and in all, for which the end waits for what is still to be written."""


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
            entry["data"] = _redacted(extra)
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            entry["traceback"] = redact(record.exc_text)
        return json.dumps(entry, default=str)


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {_redacted(key): _redacted(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(each) for each in value]
    return redact(value) if isinstance(value, str) else value


class Behind(logging.Handler):
    """Hands records to ``target`` in a thread of its own, in their order."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._changed = threading.Condition()
        self._waiting: deque[logging.LogRecord | str] = deque()
        self._put = self._written = 0
        self._lost = 0
        """Records for which there was no room since the last one."""
        self._hangs = self._ended = False
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take it down; where there is no room, count it. Warnings are written by then, since the next thing
        may be a crash: nothing is waited for where the reader hangs."""
        said = copy.copy(record)
        try:
            said.msg, said.args = record.getMessage(), None  # by then its arguments may be something else
            if record.exc_info:  # whose frames hold pictures
                said.exc_text, said.exc_info = logging.Formatter().formatException(record.exc_info), None
        except Exception:
            self.handleError(record)
        else:
            self.say(said, at_once=record.levelno >= logging.WARNING)

    def say(self, what: logging.LogRecord | str, *, at_once: bool = False) -> None:
        """Write it, a text as it is, after what was said before."""
        with self._changed:
            self._moment(lambda: len(self._waiting) < MOST_RECORDS)
            if len(self._waiting) >= MOST_RECORDS:
                self._lost += 1
                return
            self._tell_of_loss()
            self._append(what)
            number = self._put
            if at_once:
                self._moment(lambda: self._written >= number)

    def _moment(self, ready: Callable[[], bool]) -> None:
        """Wait until it is ``ready``; not where the reader hangs, which one call finds out."""
        if not (self._hangs or ready()):
            self._hangs = not self._changed.wait_for(ready, MOMENT_SECONDS)

    def _append(self, what: logging.LogRecord | str) -> None:
        self._waiting.append(what)
        self._put += 1
        self._changed.notify_all()

    def _tell_of_loss(self) -> None:
        if self._lost:
            text = f"{self._lost} lines of the log are missing here: nobody has read it for so long"
            self._append(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None))
            self._lost = 0

    def end(self) -> bool:
        """Write what is there, as long as somebody reads, and end the thread. Whether that was so."""
        with self._changed:
            self._tell_of_loss()
            self._ended = True
            self._changed.notify_all()
        latest, written = time.monotonic() + LAST_SECONDS, -1
        while self._thread.is_alive() and self._written > written and time.monotonic() < latest:
            written = self._written
            self._thread.join(HANGING_SECONDS)
        return not self._thread.is_alive()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return
                what = self._waiting.popleft()
            if isinstance(what, logging.LogRecord):
                self._target.handle(what)
            else:
                _write(what)
            with self._changed:
                self._written += 1
                self._hangs = False
                self._changed.notify_all()


def set_up(log_format: str, *, quiet: bool, debug: bool, console: Console, behind: bool = False) -> None:
    """Send the package's log to stderr: warnings only when ``quiet``, everything with ``debug``.

    ``behind``: in a thread of its own, until ``end()`` or a further call.
    """
    handler: logging.Handler
    if log_format == "json":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
    elif on_terminal(console):
        handler = RichHandler(
            console=console,
            show_path=False,
            markup=False,
            omit_repeated_times=False,
            log_time_format="%H:%M:%S",
        )
        handler.setFormatter(TextFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger()
    end()
    root.handlers[:] = [Behind(handler) if behind else handler]
    root.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)


def say(text: str) -> None:
    """Write ``text`` to stderr, after what the log has said before."""
    if (handler := _behind()) is not None:
        handler.say(text)
    else:
        _write(text)


def end() -> bool:
    """Write what is left. Whether all of it was: else a thread waits still to write it, and holds locks that
    ``logging.shutdown()`` would wait for."""
    handler = _behind()
    return handler is None or handler.end()


def _behind() -> Behind | None:
    return next((each for each in logging.getLogger().handlers if isinstance(each, Behind)), None)


def _write(text: str) -> None:
    # The work is done, whether or not somebody still reads what is said of it.
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
