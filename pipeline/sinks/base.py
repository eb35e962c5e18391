"""What every sink is."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Protocol, Self

from pipeline.errors import ConfigError, SinkError
from pipeline.frame import Result

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where results go. Used by one thread, as a context manager.

    Leaving the context closes the sink, after a failure too: what a failed run wrote up to
    the fault is worth having. An error of that closing is then a note on the failure under
    way, which it must not hide.
    """

    kind: str = ""
    """What it is called in metrics and messages; its class's name where this is empty."""
    own_thread: bool = False
    """Whether it may have to wait (for a disk, a reader): the line then gives it a thread of its own, and
    ``idle`` is not called. ``close`` or ``abort`` is called there, too."""

    def write(self, result: Result, dropped_before: int) -> None:
        """Take one result; its frame's image is read, never written to.

        ``dropped_before`` counts the frames of this stream that were dropped since its
        previous result. Raises SinkWriteError.
        """
        ...

    def admit(self, stream: str) -> None:
        """A further stream is about to be added: what it needs is opened, and held for it. In any thread, as
        is ``dismiss``. Raises SinkOpenError where it cannot be taken, too."""
        return

    def dismiss(self, stream: str) -> None:
        """It is not added after all: what ``admit`` opened just now is let go."""
        return

    def release(self, stream: str) -> None:
        """A stream was removed from the line, and all its results are written: what is held for it alone is
        finished. It may be added once more. Raises SinkWriteError."""
        return

    def idle(self) -> None:
        """Called several times a second while no result comes: a window stays responsive."""
        return

    def close(self) -> None:
        """Finish what was written, and let go of it; a second call does nothing. Raises SinkWriteError."""
        ...

    def abort(self) -> None:
        """Let go at once, finishing nothing that takes time: no half file gets its final name."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except SinkError as failure:
            if error is None:
                raise
            error.add_note(f"and while closing: {failure}")
            _log.error("%s", failure)


class _Completed(Sink):
    """One that was made without :class:`Sink`, with what it lacks."""

    def __init__(self, made: Any) -> None:
        self.kind = getattr(made, "kind", "") or type(made).__name__
        self.own_thread = getattr(made, "own_thread", False)
        self._made = made
        for name in _OPTIONAL:
            if hasattr(made, name):
                setattr(self, name, getattr(made, name))

    def write(self, result: Result, dropped_before: int) -> None:
        self._made.write(result, dropped_before)

    def close(self) -> None:
        self._made.close()

    def abort(self) -> None:
        """As it closes, where it knows no other end."""
        self._made.close()


_OPTIONAL = ("abort", "admit", "dismiss", "release", "idle")


def completed(sink: Any) -> Sink:
    """``sink`` itself where it has all methods of :class:`Sink`, else one that has.

    Raises ConfigError for what has no ``write`` or no ``close``.
    """
    for name in ("write", "close"):
        if not callable(getattr(sink, name, None)):
            raise ConfigError(
                f"sinks: {type(sink).__name__} has no method {name}; expected write(result, dropped_before) "
                "and close(), see docs/api.md"
            )
    return sink if all(hasattr(sink, name) for name in _OPTIONAL) else _Completed(sink)
