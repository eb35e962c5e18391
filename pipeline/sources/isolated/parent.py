"""The parent's side: what a source in another process yields."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av.error
import numpy as np

from pipeline.config import StreamConfig
from pipeline.errors import SourceError, SourceOpenError, SourceReadError
from pipeline.frame import Decoded, Image
from pipeline.redact import redact
from pipeline.sources.base import Missed, Picture, Remembered, Source, SourceSpec, Unreadable
from pipeline.sources.convert import Converter
from pipeline.sources.isolated.planes import Layout, made_of
from pipeline.sources.isolated.process import TAKEN, EndedError, Process
from pipeline.sources.isolated.slots import Lender
from pipeline.sources.opened import Once
from pipeline.sources.orient import Orientation

GRACE_SECONDS = 5.0
"""A child that is silent for so much longer than the source's own time-out hangs in native code."""


def open_isolated(
    spec: SourceSpec, stream: StreamConfig, stop: threading.Event, remembered: Remembered
) -> Source:
    """Open ``spec`` in a process of its own. Raises SourceOpenError."""
    return IsolatedSource(spec, stream, stop, remembered)


class IsolatedSource(Once):
    """The pictures of a source in another process: the same ones, in the same order, and the same errors."""

    def __init__(
        self, spec: SourceSpec, stream: StreamConfig, stop: threading.Event, remembered: Remembered
    ) -> None:
        super().__init__()
        self._shown, self._stop, self._remembered = redact(spec.address), stop, remembered
        self._count = 0
        self._converter = Converter(self._shown)
        self._lender: Lender | None = None
        self._generation = 0
        # Twice its time-out is what opening may take by itself, see connect(); and the child has to start.
        self._limit = 2 * stream.open_timeout + 2 * GRACE_SECONDS
        self._opening = True
        self._process = Process(spec, stream, remembered)
        try:
            message = self._next()
            if "error" in message:
                raise _error(message)
            live, self.description, self.frame_count, self.declared_fps = message["opened"]
        except BaseException:
            self.close()
            raise
        self._opening = False
        self.live = bool(live)
        # A pipe, say, may be silent for as long as its writer likes.
        bounded = self.live or Path(spec.address).is_file()
        self._limit = stream.stall_timeout + GRACE_SECONDS if bounded else math.inf

    def close(self) -> None:
        """End the child, by force where it does not answer. Twice does no harm."""
        self._process.close()
        self._lender = None

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def _pictures(self) -> Iterator[Picture | Unreadable | Missed]:
        while message := self._next():
            self._corrupt_packets = message["corrupt"]
            if "declared" in message:
                self.description, self.declared_fps = message["declared"]
            for _ in range(message["missed"]):
                yield Missed()
            if "error" in message:
                raise _error(message)
            if "end" in message:
                return
            self._process.say(self._generation, TAKEN)
            yield self._picture(message)

    def _next(self) -> dict[str, Any]:
        """What the child says next, log records aside; {} once ``stop`` is set.

        Raises SourceError where it ended without a word, hangs, or makes no sense.
        """
        until = time.monotonic() + self._limit
        told = False
        while True:
            if self._stop.is_set():
                if not self._opening:
                    return {}
                if not told:  # one that is being opened has to answer all the same, if soon
                    self._process.stop()
                    until = min(until, time.monotonic() + GRACE_SECONDS)
                    told = True
            if time.monotonic() > until:
                self._process.close(grace=0)
                raise self._failed("the process that reads it hung, and was ended", "timeout")
            try:
                heard = self._process.hear()
                if heard is not None and "log" not in heard[0]:
                    return self._understood(*heard)
            except EndedError as ended:
                how = str(ended)
            except (ValueError, TypeError, KeyError):
                how = "the process that reads it makes no sense"
            else:
                continue
            raise self._failed(how, "crash")

    def _understood(self, message: dict[str, Any], files: list[int]) -> dict[str, Any]:
        """A message whose memory and memories are taken in. Raises ValueError, TypeError, KeyError."""
        for file in files:
            self._generation += 1
            self._lender = Lender(file, int(message["each"]), partial(self._process.say, self._generation))
        if "remembered" in message:
            # What a child saw that ended without a word is not known.
            self._remembered.learn(message["remembered"])
        if not self._opening:
            message["corrupt"], message["missed"] = int(message["corrupt"]), int(message["missed"])
            if "declared" in message:
                what, fps = message["declared"]
                message["declared"] = redact(str(what)), None if fps is None else float(fps)
        return message

    def _picture(self, message: dict[str, Any]) -> Picture | Unreadable:
        if "unreadable" in message:
            return Unreadable(redact(str(message["unreadable"])))
        try:
            slot, layout, pts, time_base, seconds, name, damaged, at, key = message["picture"]
            pixels = self._pixels(int(slot), Layout.of(layout))
            self._count += 1
            return Picture(
                pixels,
                pts,
                None if time_base is None else Fraction(*time_base),
                seconds,
                name,
                damaged,
                at,
                bool(key),
            )
        except (ValueError, TypeError, KeyError, av.error.FFmpegError) as error:
            how = f"the process that reads it told of a picture that cannot be ({type(error).__name__})"
        raise self._failed(how, "crash")

    def _pixels(self, slot: int, layout: Layout) -> Image | Decoded:
        if self._lender is None:
            raise ValueError("expected memory before the first picture")
        memory = self._lender.lend(slot, layout.nbytes)
        if not layout.format:
            image: Image = memory.reshape(layout.height, layout.width, 3).view(np.ndarray)
            return image
        return self._converter.decoded(made_of(memory, layout), layout.nbytes, Orientation(*layout.turned))

    def _failed(self, how: str, cause: str) -> SourceError:
        if self._opening:
            return SourceOpenError(f"cannot open {self._shown}: {how}", cause)
        return SourceReadError(f"{self._shown}: {how}, after {self._count} pictures", cause)


def _error(message: dict[str, Any]) -> SourceError:
    """The error that the child met. Its text is redacted once more, by all that this process knows."""
    kind, text, cause = message["error"]
    return (SourceOpenError if kind == "open" else SourceReadError)(str(text), str(cause))
