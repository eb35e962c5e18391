"""A named pipe as a file for FFmpeg to read, which by itself would wait for a writer without end."""

from __future__ import annotations

import os
import select
import threading
import time

_POLL_MS = 100


class Pipe:
    """Reads a named pipe, open from the start: what is written before FFmpeg looks is not lost.

    Ends when its writers have gone, when ``stop`` is set, and when nobody has written anything
    within ``patience`` seconds, after which ``silent`` is true.
    """

    def __init__(self, path: str, stop: threading.Event, patience: float) -> None:
        self.name = path
        self.silent = False
        self._stop = stop
        self._deadline: float | None = time.monotonic() + patience
        self._file: int | None = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are any; none at the end."""
        while self._file is not None and not self._stop.is_set():
            if self._poll.poll(_POLL_MS):
                self._deadline = None
            if self._deadline is None:
                try:
                    return os.read(self._file, size)
                except BlockingIOError:  # there are writers, who have nothing to say yet
                    continue
            if time.monotonic() >= self._deadline:
                self.silent = True
                break
        return b""

    def close(self) -> None:
        """Close it; twice does no harm."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
