"""FFmpeg's own log lines, redacted, in Python's logging; off unless asked for.

Safe with threads only under one condition, which :func:`frame_threads_allowed` carries to the
media source. PyAV's log callback takes the GIL, and PyAV frees a decoder while holding the GIL;
freeing a frame-threaded decoder waits for its workers. A worker that logs at that moment waits
for the GIL for ever. Slice threads are idle outside a decode call, during which PyAV has let go
of the GIL, so with the log routed a file is decoded by slice threads, more slowly.
"""

from __future__ import annotations

import logging

import av.logging

from pipeline.redact import redact

LOGGER = logging.getLogger("pipeline.sources.ffmpeg")
_LEVELS = {
    logging.DEBUG: av.logging.VERBOSE,
    logging.INFO: av.logging.INFO,
    logging.WARNING: av.logging.WARNING,
    logging.ERROR: av.logging.ERROR,
}


class _Redacting(logging.Handler):
    """Passes FFmpeg's records on under our logger's name, redacted."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record again, without secrets."""
        part = record.name.removeprefix("libav.")
        # FFmpeg also sends pieces of lines.
        text = " ".join(redact(record.getMessage()).split())
        if text:
            LOGGER.log(record.levelno, "%s: %s", part, text)


_handler = _Redacting()


def route_ffmpeg_log(level: int | None) -> None:
    """Send FFmpeg's log lines of ``level`` (logging.DEBUG … ERROR) and above to Python logging.

    Call it before any source is opened. None switches it off again. Raises ValueError for another
    level.
    """
    libav = logging.getLogger("libav")
    libav.removeHandler(_handler)
    if level is None:
        av.logging.set_level(None)
        libav.propagate = True
        return
    if level not in _LEVELS:
        raise ValueError(f"expected one of {sorted(_LEVELS)} (logging.DEBUG … logging.ERROR), got {level}")
    libav.addHandler(_handler)
    # The unredacted record must not reach the root logger's handlers.
    libav.propagate = False
    libav.setLevel(level)
    av.logging.set_level(_LEVELS[level])


def routed() -> int | None:
    """The level that :func:`route_ffmpeg_log` was given last; None while the log is off."""
    known = {libav: level for level, libav in _LEVELS.items()}
    level = av.logging.get_level()
    return None if level is None else known.get(level)


def frame_threads_allowed() -> bool:
    """False while FFmpeg's log is routed; see the module's docstring."""
    return av.logging.get_level() is None
