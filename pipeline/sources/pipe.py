"""A named pipe as a file for FFmpeg to read, which by itself would wait for a writer without end."""

from __future__ import annotations

import math
import os
import select
import threading
import time

_POLL_MS = 100


class Pipe:
    """Reads a named pipe, open from the start: what is written before FFmpeg looks is not lost.

    Ends when its writers have gone, when ``stop`` is set, and after ``patience`` seconds in which it was not
    :meth:`opened`, which ``silent`` then explains; after that a writer may take its time.
    """

    def __init__(self, path: str, stop: threading.Event, patience: float) -> None:
        self.name = path
        self.silent = ""
        """Who did not write, in words."""
        self.begins = b""
        """What came first; some bytes of it."""
        self._stop = stop
        self._written = False
        self._deadline = time.monotonic() + patience
        self._file: int | None = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are any; none at the end."""
        while self._file is not None and not self._stop.is_set():
            if time.monotonic() >= self._deadline:
                who = "whoever writes to this pipe wrote too little for a picture in time"
                self.silent = who if self._written else "nobody writes to this pipe"
                break
            # Poll says nothing of writers that had gone before this end was opened.
            if self._poll.poll(_POLL_MS) or self._written:
                try:
                    data = os.read(self._file, size)
                except BlockingIOError:  # there are writers, who have nothing to say yet
                    pass
                else:
                    self._written = self._written or bool(data)
                    self.begins = self.begins or data[:12]
                    return data
        return b""

    @property
    def why(self) -> tuple[str, str] | None:
        """Cause and phrase of what was not opened; None where the pipe has nothing to do with it."""
        if self._stop.is_set():
            return "stopped", "it was stopped before there was a picture"
        if self.silent:
            return "timeout", self.silent
        return None

    @property
    def hint(self) -> str:
        """What may be amiss with data that FFmpeg makes nothing of; empty where nothing is known."""
        if self.begins[4:8] != b"ftyp":
            return ""
        return (
            "; an MP4 can be read from a pipe only with its index first or in fragments: write it with "
            "-movflags +faststart or +frag_keyframe, or give the file itself"
        )

    def opened(self) -> None:
        """From now on wait for writers as long as they have it open."""
        self._deadline = math.inf

    def close(self) -> None:
        """Close it; twice does no harm."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
