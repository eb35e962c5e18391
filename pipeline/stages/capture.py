"""Source pictures to frames: the only stage that has one thread per stream."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np

from pipeline.accounts import StreamAccount
from pipeline.config import StreamConfig
from pipeline.errors import SourceError
from pipeline.flow import Dropped
from pipeline.frame import Frame
from pipeline.sources import Picture, Source, SourceSpec, Unreadable, open_source

log = logging.getLogger(__name__)


class Capture:
    """Calling it opens the source and yields its frames until it ends or ``stop`` is set.

    ``opened`` is told, before the first frame, whether the stream is live (the configured
    answer, else what the source itself says) and how many bytes that frame has. A file that is to
    be live is paced by its PTS.
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

    def __call__(self) -> Iterator[Frame | Dropped]:
        """Frames, and a Dropped for each frame that is skipped on purpose or could not be read."""
        account = self._account
        try:
            with closing(self._open_source(self._spec, self._stream, self._stop)) as source:
                account.connected(source.description, source.frame_count)
                log.info("stream %s: %s", account.name, source.description)
                yield from self._frames(source)
        except SourceError as error:
            account.ended(error.cause, error)
            log.error("stream %s ended: %s", account.name, error)
        else:
            account.ended("stopped" if self._stop.is_set() else "end")

    def _frames(self, source: Source) -> Iterator[Frame | Dropped]:
        stream, name = self._stream, self._account.name
        asked = stream.live if stream.live is not None else self._spec.live
        live = source.live if asked is None else asked
        told = False
        pace = _Pace(self._stop) if live and not source.live else None
        for seq, picture in enumerate(source):
            self._account.corrupt_packets = source.corrupt_packets
            if isinstance(picture, Unreadable):
                log.warning("stream %s: frame %d skipped: %s", name, seq, picture.reason)
                nothing = np.empty((0, 0, 3), np.uint8)
                yield Dropped(
                    Frame(name, seq, nothing, None, None, time.monotonic(), time.time()), "unreadable"
                )
            else:
                if not told:
                    told = True
                    self._opened(live, picture.image.nbytes)
                if pace is not None:
                    pace.wait(picture)
                frame = Frame(
                    name,
                    seq,
                    picture.image,
                    picture.pts,
                    picture.time_base,
                    time.monotonic(),
                    time.time(),
                    {"capture": picture.decode_seconds},
                )
                yield Dropped(frame, "every_nth") if seq % stream.every_nth else frame
            if self._stop.is_set() or seq + 1 == stream.max_frames:
                break
        self._account.corrupt_packets = source.corrupt_packets


class _Pace:
    """Holds pictures back until their PTS is due, as a camera would deliver them."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._offset: float | None = None

    def wait(self, picture: Picture) -> None:
        if picture.pts is None or picture.time_base is None:
            return
        due = float(picture.pts * picture.time_base)
        now = time.monotonic()
        if self._offset is None:
            self._offset = now - due
        delay = due + self._offset - now
        if delay > 0:
            self._stop.wait(delay)
