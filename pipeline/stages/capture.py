"""Source pictures to frames: the only stage that has one thread per stream."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from zlib import crc32

import numpy as np

from pipeline.accounts import StreamAccount
from pipeline.config import StreamConfig
from pipeline.errors import SourceError
from pipeline.flow import Dropped
from pipeline.frame import Frame
from pipeline.link import Backoff
from pipeline.memory import give_back
from pipeline.sources import Picture, Remembered, Source, SourceSpec, Timestamps, Unreadable, open_source

log = logging.getLogger(__name__)


class Capture:
    """Calling it opens the source and yields its frames until it ends or ``stop`` is set.

    ``opened`` is told, before the first frame, whether the stream is live (the configured
    answer, else what the source itself says) and how many bytes that frame has. A file that is to
    be live is paced by its PTS.
    A looped source is opened again at its end, and so is a lost one where that may help (see
    :mod:`pipeline.link`): frames and their PTS count on.
    A source that fails ends its own stream only: the reason goes into the account, not up.
    """

    def __init__(
        self,
        spec: SourceSpec,
        stream: StreamConfig,
        account: StreamAccount,
        opened: Callable[[bool, int], None],
        stop: threading.Event,
        open_source: Callable[..., Source] = open_source,
    ) -> None:
        self._spec = spec
        self._stream = stream
        self._account = account
        self._opened = opened
        self._stop = stop
        self._open_source = open_source
        self._captured = 0
        self._pace: _Pace | None = None
        self._timestamps = Timestamps()
        self._remembered = Remembered()
        account.pts_repaired = self._timestamps.repaired
        if stream.reconnect or (stream.reconnect is None and spec.live):
            self._supervise()

    def __call__(self) -> Generator[Frame | Dropped, None, None]:
        """Frames, and a Dropped for each frame that is skipped on purpose or could not be read."""
        account = self._account
        again, described = True, ""
        while again:
            before, lost = self._captured, None
            account.link.connecting()
            self._timestamps.restart()
            try:
                source = self._open_source(self._spec, self._stream, self._stop, self._remembered)
                with closing(source):
                    looped = self._stream.loop and not source.live
                    if source.live and self._stream.reconnect is None:
                        self._supervise()
                    account.connected(source.description, None if looped else source.frame_count)
                    if source.description != described:
                        described = source.description
                        log.info("stream %s: %s", account.name, source.description)
                    yield from self._frames(source)
                again = looped and self._captured > before and not self._enough()
            except SourceError as error:
                lost = error
            give_back()
            if lost is not None:
                again = self._wait(lost)
        if account.ending is None:
            account.ended("stopped" if self._stop.is_set() else "end")

    def _supervise(self) -> None:
        self._account.link.backoff = Backoff(
            self._stream.backoff, max(self._stream.backoff, self._stream.backoff_max)
        )

    def _wait(self, error: SourceError) -> bool:
        """Whether to open the source again, after the wait that is due."""
        account = self._account
        if account.link.backoff is not None and self._stop.is_set():
            return False
        wait = account.link.failed(error)
        if wait is None:
            account.ended(error.cause, error)
            log.error("stream %s ended: %s", account.name, error)
            return False
        return not self._stop.wait(wait)

    def _frames(self, source: Source) -> Iterator[Frame | Dropped]:
        stream, name, account = self._stream, self._account.name, self._account
        asked = stream.asked_live(self._spec.live)
        live = source.live if asked is None else asked
        told = self._captured > 0
        if self._pace is None and live and not source.live:
            self._pace = _Pace(self._stop, stream.pace, name)
        pace, link, timestamps, pauses = self._pace, account.link, self._timestamps, not source.live
        corrupt_before = account.corrupt_packets
        for seq, picture in enumerate(source, start=self._captured):
            self._captured = seq + 1
            account.corrupt_packets = corrupt_before + source.corrupt_packets
            link.picture(source.live)
            if isinstance(picture, Unreadable):
                log.warning("stream %s: frame %d skipped: %s", name, seq, picture.reason)
                nothing = np.empty((0, 0, 3), np.uint8)
                yield Dropped(
                    Frame(name, seq, nothing, None, None, time.monotonic(), time.time()), "unreadable"
                )
            else:
                if not told:
                    told = True
                    self._opened(live, picture.pixels.nbytes)
                if pace is not None:
                    pace.wait(picture)
                now = time.monotonic()
                frame = Frame(
                    name,
                    seq,
                    picture.pixels,
                    timestamps(picture.pts, picture.time_base, now, pauses=pauses),
                    picture.time_base,
                    now,
                    time.time(),
                    {"capture": picture.decode_seconds},
                    picture.name,
                    picture.damaged and stream.damaged == "flag",
                )
                if picture.damaged:
                    account.damaged += 1
                if picture.damaged and stream.damaged == "drop":
                    yield Dropped(frame, "damaged")
                else:
                    yield Dropped(frame, "every_nth") if seq % stream.every_nth else frame
            if self._enough():
                break
        account.corrupt_packets = corrupt_before + source.corrupt_packets

    def _enough(self) -> bool:
        return self._stop.is_set() or self._captured == self._stream.max_frames


class _Pace:
    """Holds pictures back until they are due, as a camera would deliver them: by PTS, or at a rate.

    At a rate, each stream begins at a moment of its own (told by its name): cameras do not agree on
    when they take their pictures.
    """

    def __init__(self, stop: threading.Event, fps: float | None, name: str) -> None:
        self._stop = stop
        self._fps = fps
        self._count = 0
        self._phase = crc32(name.encode()) / 2**32
        self._offset: float | None = None
        self._latest = -math.inf

    def wait(self, picture: Picture) -> None:
        due = self._due(picture)
        if due is None:
            return
        now = time.monotonic()
        if self._offset is None or due < self._latest:  # the first, or the first of another round
            self._offset = now - due
        self._latest = due
        delay = due + self._offset - now
        if delay > 0:
            self._stop.wait(delay)

    def _due(self, picture: Picture) -> float | None:
        if self._fps is not None:
            self._count += 1
            return (self._count + self._phase * (self._count > 1)) / self._fps
        if picture.pts is None or picture.time_base is None:
            return None
        return float(picture.pts * picture.time_base)
