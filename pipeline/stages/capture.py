"""Source pictures to frames: the only stage that has one thread per stream."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from zlib import crc32

import numpy as np

from pipeline.accounts import StreamAccount
from pipeline.config import CameraConfig, StreamConfig
from pipeline.errors import SourceError, SourceReadError
from pipeline.flow import Dropped
from pipeline.frame import Frame
from pipeline.link import Backoff
from pipeline.memory import give_back
from pipeline.redact import redact
from pipeline.sources import (
    Missed,
    Picture,
    Remembered,
    Source,
    SourceSpec,
    Timestamps,
    Unreadable,
    names_recording,
    open_source,
)

log = logging.getLogger(__name__)


Opened = Callable[[bool, int], None]
_TOLD_EACH = 60.0
"""Seconds between two lines that tell of a change in mid-stream: some encoders go by the network."""


class Capture:
    """A stream's frames. Calling it opens the source and yields them until it ends or ``stop`` is set; it may
    be called again then, and counts on.

    ``opened`` is told, before the first frame of a call, whether the stream is live (the configured
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
        open_source: Callable[..., Source] = open_source,
        timestamps: Timestamps | None = None,
    ) -> None:
        """``timestamps`` are those of a stream that was there before under its name, whose time goes on."""
        self._spec, self._stream, self._account = spec, stream, account
        self._open_source = open_source
        self.stop = threading.Event()
        """That of the call that counts: an earlier one that finds another here has been given up."""
        self._lock = threading.Lock()
        """Whoever writes what is told of the stream holds it, and looks at ``stop`` first."""
        self._captured = self._first = account.counts().captured
        self._taken = 0
        """Of those that could be read."""
        self._turned = False
        """A looped source is in another round."""
        self._source_live = spec.live
        self._pace: _Pace | None = None
        self._told = -math.inf
        """When it was logged last that the source is another one in its middle."""
        self._timestamps = timestamps if timestamps is not None else Timestamps()
        account.pts_repaired = self._timestamps.repaired
        self._remembered = Remembered()
        account.link.renewed()  # of one that was there before under its name
        account.health.renewed()
        self._supervise()

    def begin(self) -> threading.Event:
        """The stop of the next call. One that is still under way is given up: nothing of it counts now."""
        with self._lock:
            self.stop = threading.Event()
        return self.stop

    def change(self, spec: SourceSpec, stream: StreamConfig) -> None:
        """Go by another config; what concerns the source itself, from the next time that it is opened.

        A call that is under way with another source is given up.
        """
        with self._lock:
            if spec != self._spec:
                self.stop.set()
                self.stop = threading.Event()
                self._source_live, self._remembered, self._pace = spec.live, Remembered(), None
                self._account.link.renewed()
                self._account.health.renewed()
            self._spec, self._stream = spec, stream
            self._supervise()

    def __call__(
        self, opened: Opened | None = None, stop: threading.Event | None = None
    ) -> Generator[Frame | Dropped, None, None]:
        """Frames, and a Dropped for each frame that is skipped on purpose or could not be read."""
        account, told, stop = self._account, False, stop or self.stop
        self._pace = None  # after a pause nothing is to be caught up with
        again, described = not self._enough(stop) and self._may_log_in(stop), ""
        self._turned = False
        while again:
            before, lost, looped = self._taken, None, False
            with self._lock:
                if stop is not self.stop:
                    return
                if not self._turned:  # what begins anew as asked has not been lost
                    account.link.connecting()
                self._timestamps.restart()
                to_open = self._spec, self._stream, stop, self._remembered
            try:
                source = self._open_source(*to_open)
                with closing(source), self._counting(source, stop):
                    looped = self._stream.loop and not source.live
                    description = self._described(source)
                    if self._connected(source, stop, description, looped) and description != described:
                        described = description
                        log.info("stream %s: %s", account.name, description)
                    for frame in self._frames(source, stop):
                        if opened is not None and not told and isinstance(frame, Frame):
                            told, live = True, self._is_live(source)
                            for words in self._without_effect(source, live):
                                log.warning("stream %s: %s", account.name, words)
                            opened(live, frame.pixels.nbytes)
                        yield frame
            except SourceError as error:
                # Its frames would keep the last picture for as long as the books and the log keep the error.
                lost = error.with_traceback(None)
            give_back()
            if looped and lost is None and self._taken == before and not self._enough(stop):
                lost = SourceReadError("not one of its pictures could be read", cause="format")
            again = looped if lost is None else self._wait(lost, stop)
            again, self._turned = again and not self._enough(stop), lost is None
        with self._lock:
            if stop is self.stop and account.ending is None:
                account.ended("stopped" if stop.is_set() else "end")

    def _connected(self, source: Source, stop: threading.Event, description: str, looped: bool) -> bool:
        """The source is open; False where that comes too late, of a call that was given up."""
        with self._lock:
            if stop is not self.stop:
                return False
            self._source_live = source.live
            self._supervise()
            self._account.health.begin(self._rate(source))
            self._account.link.expect(source.declared_fps, self._stream.stall_timeout)
            self._account.connected(description, None if looped else source.frame_count)
            return True

    def _rate(self, source: Source) -> float | None:
        return (None if source.live else self._stream.pace) or source.declared_fps

    def _supervise(self) -> None:
        """Whether a lost source is opened again, and pictures looked at: as configured, else of live ones."""
        stream, live = self._stream, self._source_live
        asked = stream.asked_live(live) if stream.health is None else stream.health
        self._account.health.watch(
            bool(asked), stream.frozen_seconds, stream.black_seconds, stream.not_ready_when
        )
        wanted = stream.reconnect
        if wanted is None:
            wanted = self._presumed_live() if live is None else live
        backoff = Backoff(stream.backoff, max(stream.backoff, stream.backoff_max))
        self._account.link.backoff = backoff if wanted else None

    def _presumed_live(self) -> bool:
        """HTTP tells only when it is opened whether it is live, and a camera may be off until then."""
        stream = self._stream
        if stream.live is not None:
            return stream.live
        return stream.pace is None and not stream.loop and not names_recording(self._spec.address)

    def _may_log_in(self, stop: threading.Event) -> bool:
        """Whether to open the source, after what is left of the wait for which a refused password rests."""
        with self._lock:
            if stop is not self.stop:
                return False
            left = self._account.link.refused()
        return not stop.wait(left)

    def _wait(self, error: SourceError, stop: threading.Event) -> bool:
        """Whether to open the source again, after the wait that is due."""
        account = self._account
        if error.cause == "stopped" or (account.link.backoff is not None and stop.is_set()):
            return False
        with self._lock:
            if stop is not self.stop:
                return False
            wait = account.link.failed(error)
            if wait is None:
                account.ended(error.cause, error)
        if wait is None:
            log.error("stream %s ended: %s", account.name, error)
            return False
        return not stop.wait(wait)

    def _is_live(self, source: Source) -> bool:
        asked = self._stream.asked_live(self._spec.live)
        return source.live if asked is None else asked

    def _without_effect(self, source: Source, live: bool) -> Iterator[str]:
        """What was asked for that means nothing to this source, in words."""
        stream = self._stream
        if self._account.lane.tick is not None and not live:
            yield "target_age_ms means nothing to it: it is not live, so every frame is kept"
        unfit = [key for key, given in (("pace", stream.pace), ("loop", stream.loop)) if given]
        if unfit and source.live:
            mean = "mean" if len(unfit) > 1 else "means"
            yield f"{' and '.join(unfit)} {mean} nothing to it: it is live by itself; every_nth takes fewer"
        if stream.camera != CameraConfig() and self._spec.kind != "camera":
            yield "camera settings mean nothing to it: it is no local camera (camera:0)"

    def _described(self, source: Source) -> str:
        return f"{source.description}, {self._kind(source)}"

    def _kind(self, source: Source) -> str:
        live = self._is_live(source)
        if live == source.live:
            return "live" if live else "not live"
        return "taken as live" if live else "taken as a file"

    def _frames(self, source: Source, stop: threading.Event) -> Iterator[Frame | Dropped]:
        name, account, link = self._account.name, self._account, self._account.link
        live, lane, health = self._is_live(source), account.lane, account.health
        thinned = live and lane.tick is not None
        waits = source.live and not live  # for the line, which a live one never does
        with self._lock:
            if stop is not self.stop:
                return
            if self._pace is None and live and not source.live:
                self._pace = _Pace(self._stream.pace, name)
            pace, corrupt_before = self._pace, account.corrupt_packets
        description = source.description
        for picture in source:
            if pace is not None and isinstance(picture, Picture):
                pace.wait(picture, stop)
            with self._lock:
                if stop is not self.stop:
                    return
                account.corrupt_packets = corrupt_before + source.corrupt_packets
                if source.description is not description:
                    description = source.description
                    self._changed(source)
                link.picture(source.live, picture.decoded_at if isinstance(picture, Picture) else None)
                if health.watched and isinstance(picture, Picture):
                    health.picture(picture.pixels, picture.key)
                elif health.watched and isinstance(picture, Missed):
                    health.missed()
                seq = self._captured
                self._captured += 1
            if isinstance(picture, Picture):
                self._taken += 1
                frame = self._frame(seq, picture, pauses=not source.live)
                if thinned and isinstance(frame, Frame) and not lane.admits(seq // self._stream.every_nth):
                    frame = Dropped(frame, "adaptive")
                if waits:
                    link.holds(True)
                yield frame
                if waits:
                    link.holds(False)
            else:
                reason = "overrun"
                if isinstance(picture, Unreadable):
                    reason = "unreadable"
                    level = logging.DEBUG if self._turned else logging.WARNING  # told in the first turn
                    log.log(level, "stream %s: frame %d skipped: %s", name, seq, picture.reason)
                nothing = np.empty((0, 0, 3), np.uint8)
                yield Dropped(Frame(name, seq, nothing, None, None, time.monotonic(), time.time()), reason)
            if self._enough(stop):
                break

    @contextmanager
    def _counting(self, source: Source, stop: threading.Event) -> Iterator[None]:
        """Count the packets behind the last picture, too, whatever ends the source."""
        before = self._account.corrupt_packets
        try:
            yield
        finally:
            with self._lock:
                if stop is self.stop:
                    self._account.corrupt_packets = before + source.corrupt_packets

    def _changed(self, source: Source) -> None:
        """The source is another one in its middle."""
        account = self._account
        account.description = self._described(source)
        account.health.declares(self._rate(source))
        account.link.expect(source.declared_fps, self._stream.stall_timeout)
        now = time.monotonic()
        level = logging.INFO if now - self._told >= _TOLD_EACH else logging.DEBUG
        self._told = now if level == logging.INFO else self._told
        log.log(level, "stream %s: now %s", account.name, account.description)

    def _frame(self, seq: int, picture: Picture, *, pauses: bool) -> Frame | Dropped:
        stream, now = self._stream, time.monotonic()
        at = now if picture.decoded_at is None else picture.decoded_at
        frame = Frame(
            self._account.name,
            seq,
            picture.pixels,
            self._timestamps(picture.pts, picture.time_base, at, pauses=pauses),
            picture.time_base,
            at,
            time.time() - (now - at),
            {"capture": picture.decode_seconds},
            self._shown(picture.name),
            picture.damaged and stream.damaged == "flag",
        )
        if picture.damaged:
            self._account.damaged += 1
            if stream.damaged == "drop":
                return Dropped(frame, "damaged")
        return Dropped(frame, "every_nth") if seq % stream.every_nth else frame

    def _shown(self, name: str | None) -> str | None:
        """A picture's name, redacted: the process of an isolated source does not know all secrets."""
        if name is None:
            return None
        address = self._spec.address
        # Of one picture the whole path, as a secret may be more of it than the name.
        return Path(redact(address)).name if Path(address).name == name else redact(name)

    def _enough(self, stop: threading.Event) -> bool:
        most = self._stream.max_frames
        return stop.is_set() or (most is not None and self._captured - self._first >= most)


class _Pace:
    """Holds pictures back until they are due, as a camera would deliver them: by PTS, or at a rate.

    At a rate, each stream begins at a moment of its own (told by its name): cameras do not agree on
    when they take their pictures.
    """

    def __init__(self, fps: float | None, name: str) -> None:
        self._fps = fps
        self._count = 0
        self._phase = crc32(name.encode()) / 2**32
        self._offset: float | None = None
        self._latest = -math.inf

    def wait(self, picture: Picture, stop: threading.Event) -> None:
        """Return when ``picture`` is due, or ``stop`` is set."""
        due = self._due(picture)
        if due is None:
            return
        now = time.monotonic()
        if self._offset is None or due < self._latest:  # the first, or the first of another round
            self._offset = now - due
        self._latest = due
        delay = due + self._offset - now
        if delay > 0:
            stop.wait(delay)

    def _due(self, picture: Picture) -> float | None:
        if self._fps is not None:
            self._count += 1
            return (self._count + self._phase * (self._count > 1)) / self._fps
        if picture.pts is None or picture.time_base is None:
            return None
        return float(picture.pts * picture.time_base)
