"""Video through FFmpeg (PyAV): files, RTSP, HTTP, HLS, RTMP, SRT, UDP.

Threads: FFmpeg decodes files with frame and slice threads (see ``threads``); live streams with slice threads
alone, because a frame thread holds its frame back until the next one comes (measured: 80 ms at
25 fps with two threads). ``low_delay`` gained nothing on top of slice threads and ``nobuffer``
threw away all that arrived while the stream was being opened (the first two seconds), so neither
is set.

A lost MediaSource is opened again as a new one. Nothing in it outlives its ``close``, but for the thread that
reads ahead what is live (``readahead``), where it waits in FFmpeg then: it closes the container itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Stream

from pipeline.cores import usable_cores
from pipeline.errors import SourceOpenError, SourceReadError
from pipeline.redact import redact
from pipeline.sources import fflog
from pipeline.sources.base import Missed, Picture, Remembered, Source, SourceSpec
from pipeline.sources.connect import PLAYLISTS, Opened, connect
from pipeline.sources.convert import Converter
from pipeline.sources.damage import MOST_THREADS, Damage, tell_of_damage
from pipeline.sources.demux import demuxed
from pipeline.sources.ending import Progress
from pipeline.sources.failures import STALL_SHARE, explain, silence
from pipeline.sources.feed import Feed, LiveFeed, LivePlaylist
from pipeline.sources.framenumbers import FrameNumbers
from pipeline.sources.hardware import NoHardwareError, on_device
from pipeline.sources.limits import too_large
from pipeline.sources.opened import Once
from pipeline.sources.picturesize import picture_size
from pipeline.sources.playlist import Flags, Repeats
from pipeline.sources.readahead import SKIP_SECONDS, Steps, UnheardError
from pipeline.sources.segments import refusal
from pipeline.sources.sieve import Sieve
from pipeline.sources.slices import joined
from pipeline.sources.threads import threads_of_file

if TYPE_CHECKING:
    from pipeline.config import StreamConfig

LOG = logging.getLogger(__name__)

_MPEG_TS = b"\0\0"
"""What a codec's header begins with there: a start code. A playlist's segments may be MP4, too."""
_CLOSED = "no new picture: the playlist is closed, and what was live is not given again"


def open_media(
    spec: SourceSpec, stream: StreamConfig, stop: threading.Event, remembered: Remembered
) -> Source:
    """Open a file or an address. Raises SourceOpenError.

    Where a device is to decode, its first picture is awaited too: only then is known who decodes.
    """
    was_live = remembered.live
    opened = connect(spec, stream, stop, remembered)
    if was_live and opened.container.format.name in PLAYLISTS and not _is_endless(opened.container):
        # FFmpeg joins it at its first segment: old pictures would come as live ones, and again at each try.
        opened.container.close()
        raise SourceOpenError(f"cannot open {redact(spec.address)}: {_CLOSED}", cause="ended")
    source = MediaSource(opened, spec, stream, stop, remembered)
    if stream.hwdecode != "none":
        try:
            source.settle()
        except BaseException:
            source.close()
            raise
    return source


class MediaSource(Once):
    """The pictures of one opened container."""

    def __init__(
        self,
        opened: Opened,
        spec: SourceSpec,
        stream: StreamConfig,
        stop: threading.Event,
        remembered: Remembered,
    ) -> None:
        super().__init__()
        self.live = _is_live(opened.container, spec, stream, remembered)
        self._container, self._video, self._pipe = opened.container, opened.video, opened.pipe
        self._shown, self._stop = redact(spec.address), stop
        self._max_picture = stream.max_picture
        self._remote = bool(opened.scheme)
        self._open_timeout, self._stall_timeout = stream.open_timeout, stream.stall_timeout
        # FFmpeg calls frame threads on top of a device unstable.
        frame_threads = not self.live and not on_device(self._video) and fflog.frame_threads_allowed()
        self._video.thread_type = "AUTO" if frame_threads else "SLICE"
        playlist = self._container.format.name in PLAYLISTS
        hls = self._container.format.name == "hls"
        self._asks = partial(refusal, address=spec.address, stream=stream, stop=stop) if hls else None
        if playlist:
            for each in self._container.streams:
                if each.index != self._video.index:
                    each.discard = Discard.all  # else FFmpeg loads every variant there is
        tell_of_damage(self._video.codec_context, self.live)
        extradata = bytes(self._video.codec_context.extradata or b"")
        if stream.decode_threads is not None:
            self._video.codec_context.thread_count = stream.decode_threads
        elif frame_threads:
            context = self._video.codec_context
            context.thread_count = threads_of_file(context, usable_cores())
        h264 = self._video.codec_context.name == "h264"
        self._numbers = numbers = FrameNumbers(extradata) if h264 else None
        at_work = (self._video.codec_context.thread_count or MOST_THREADS) if frame_threads else 1
        self._damage = Damage(self._video.codec_context.name, numbers, at_work)
        self._forgets = at_work == 1  # others would lose what they are at work on
        self.frame_count = None if self.live else self._video.frames or None
        rate = self._video.average_rate
        if rate is None and opened.scheme not in ("rtsp", "rtsps"):
            # Of MPEG-TS and the like the video's own header says it; an RTSP camera's may be wrong by two.
            rate = self._video.codec_context.framerate
        self.declared_fps = float(rate) if rate else None
        self._header: tuple[int, int, Fraction | None] | None = None
        """Size and rate by the video's own header, at its last key picture."""
        self._opened = opened
        self._pictured = time.monotonic()
        self._packet_at: float | None = None
        """When the video's last packet came."""
        self._came: float | None = None
        """When what the decoder is given now had come, where that was not just now."""
        segments = playlist and extradata.startswith(_MPEG_TS)
        # FFmpeg finds the end of a picture where the next one begins, and flags what it has completed when it
        # comes upon a loss: the picture before that which the data is missing of.
        early = segments or self._container.format.name == "mpegts"
        name = self._container.format.name
        self._sieve = Sieve(self._video, name, numbers, self._damage, flagged_early=early, shown=self._shown)
        self._progress = Progress(self._container, self._video, sized=not self.live, remote=self._remote)
        index = self._video.index
        packets = demuxed(self._container, self._progress.watched)
        if h264 and opened.scheme in ("rtsp", "rtsps"):
            packets = joined(packets, self._video)
        flags = Flags(packets, index, segments=segments)
        self._feed = Feed(flags)
        limit = self._stall_timeout
        steps = Steps(index, limit, SKIP_SECONDS if playlist else 0.0)
        # Where each picture counts nothing is skipped: whoever takes them may take his time.
        skips = self.live and stream.live is not False
        if playlist and self.live:
            repeats = Repeats(remembered.seen)
            self._feed = LivePlaylist(flags, steps, stop, self._shown, repeats, limit=limit, skips=skips)
        elif skips:
            self._feed = LiveFeed(flags, steps, stop, self._shown, limit=limit)
        self._ahead: list[Picture | Missed] = []
        self._rest = self._decoded()
        self._decoder = ""
        self.description = self._describe()

    @property
    def corrupt_packets(self) -> int:
        """Packets that the decoder refused, that lack data, did not come or came twice, as far as is told."""
        return self._sieve.damaged + self._damage.found

    def settle(self) -> None:
        """Decode the first picture, and find out where that was done. Raises SourceError."""
        for each in self._rest:
            self._ahead.append(each)
            if isinstance(each, Picture):
                break
        failure = ""
        try:
            self._decoder = self._opened.decoding.settle(self._video, self._shown)
            self.description = self._describe()
        except NoHardwareError as error:
            failure = str(error)
        if failure and not self._stop.is_set():
            raise SourceOpenError(f"cannot open {self._shown}: {failure}", cause="hardware")

    def close(self) -> None:
        """Close the container. To be called by the thread that iterates; twice does no harm."""
        self._feed.close(self._container.close)
        if self._pipe is not None:
            self._pipe.close()

    def _pictures(self) -> Iterator[Picture | Missed]:
        yield from self._ahead
        self._ahead = []
        yield from self._rest

    def _decoded(self) -> Iterator[Picture | Missed]:
        converter, feed, clock = Converter(self._shown), self._feed, time.perf_counter
        spent = 0.0
        for packet in self._packets():
            for _ in range(feed.left_out()):
                yield Missed()
            begun, large = clock(), ""
            if packet is not None and packet.is_keyframe and self._forgets and self._sieve.stuck:
                self._video.codec_context.flush_buffers()  # VP9's does not get over some by itself
            self._damage.decodes(packet)
            feed.decodes(packet)  # it has a time now in any case
            try:
                frames = self._video.decode(packet)
            except av.error.FFmpegError as error:
                if packet is None:
                    continue
                self._sieve.refused(packet, error)
                large = self._claims_too_much(packet)
                if not large:
                    continue
            finally:
                spent += clock() - begun
            if large:
                raise self._error("format", f"{large}{self._after()}")
            if frames and packet is not None and packet.size:  # at the end come those of before
                self._sieve.decoded()
            for n, frame in enumerate(frames):
                if self._damage.hides(frame):
                    continue
                begun = clock()
                pixels = converter.pixels(frame)
                seconds = clock() - begun + spent / (len(frames) - n)
                spent -= spent / (len(frames) - n)
                damaged, key, pts = self._damage.shows(frame), frame.key_frame, self._damage.pts(frame)
                if key:
                    self._follow()
                if feed.hides(frame.pts):
                    continue
                self._progress.pictures += 1
                time_base = frame.time_base or self._video.time_base  # none where it was held back to the end
                yield Picture(pixels, pts, time_base, seconds, None, damaged, self._came, key)
                self._pictured = time.monotonic()
                if self._stop.is_set():
                    return
        if not self._stop.is_set():
            self._check_end()

    def _follow(self) -> None:
        """Let what is declared be that of now: another size, another rate than before.

        The rate in the header may be twice that of pictures, as the one that the source began with may not:
        the change alone counts. FFmpeg's decoder of H.264 takes no notice of it unless the size changes too.
        """
        context, numbers = self._video.codec_context, self._numbers
        rate = context.framerate if numbers is None else numbers.rate
        header, before = (context.width, context.height, rate), self._header
        if header == before:
            return
        self._header = header
        was = before[2] if before is not None else None
        if rate and was and self.declared_fps:
            self.declared_fps *= float(rate / was)
        description = self._describe()
        if description != self.description:
            self.description = description

    def _packets(self) -> Iterator[Packet[Stream] | None]:
        """The video's packets; damaged ones are skipped and counted. None: no more will come, before the
        reason is raised."""
        feed, came, limit = self._feed, time.monotonic(), self._stall_timeout
        while not self._stop.is_set():
            if self._sieve.over is not None:
                yield None
                raise self._sieve.over
            failure: tuple[str, str] | None = None
            packet = None
            try:
                packet = feed.read()
            except av.error.FFmpegError as error:
                failure = explain(error, remote=self._remote, opening=None, waited=feed.waited, limit=limit)
            except UnheardError:
                failure = "timeout", f"data comes, but nothing of its tracks within {limit:.3g} s"
            now, waited = time.monotonic(), feed.waited
            if packet is not None and self._remote and waited >= limit:
                # FFmpeg's time was up: this is what its parser held. Asked again, it would wait once more.
                failure = silence(limit)
            if failure is None and packet is None:
                return
            if failure is None:
                came = now
            elif waited >= STALL_SHARE * limit:
                self._came = came
            if packet is not None:
                self._progress.saw(packet)
                if failure is None and self._remote and self.live and self._without_pictures(packet, now):
                    yield None
                    what = f"data comes, but no picture within {limit:.3g} s"
                    raise self._lost("timeout", f"{what}{self._after()}{feed.hint('')}")
                if self._sieve.takes(packet):
                    broken = feed.lacks_data(packet)
                    feed.await_turn(packet)
                    self._damage.found += feed.never_came()
                    if feed.resumes():
                        self._damage.lost()  # of an open group: what is shown before its key picture
                    yield packet
                    if broken:
                        self._sieve.lacked_data()
            if failure is not None:
                yield None  # pictures that the decoder holds back, to bring them in order, had come
                cause, phrase = failure
                hint = "" if self._progress.pictures else self._hint()
                raise self._lost(cause, f"{phrase}{self._after()}{hint}{feed.hint(cause)}")

    def _without_pictures(self, packet: Packet[Stream], now: float) -> bool:
        """Whether data comes of which there is no picture for too long: sound alone, or what is no video."""
        limit, before = self._stall_timeout, self._packet_at
        if packet.stream.index != self._video.index:
            # The first one may be far behind the sound: nobody waited for it while the source was opened.
            since = self._pictured + self._open_timeout if before is None else before
            return now - since > limit
        self._packet_at = now
        # A slow camera's next picture may need the packet after this one.
        return before is not None and now - before < limit / 2 and now - self._pictured > limit

    def _hint(self) -> str:
        """What may be amiss where no picture came: FFmpeg finds an MP4's index at its end, and cannot go
        back."""
        if self._pipe is not None:
            return self._pipe.hint
        if self._opened.scheme in ("http", "https") and "mp4" in self._container.format.name:
            return (
                "; an MP4 with its index last needs a server that answers range requests: put the index "
                "first (-movflags +faststart), or download the file"
            )
        return ""

    def _claims_too_much(self, packet: Packet[Stream]) -> str:
        """What to say of a packet that the decoder refused for the size of its picture; "" for another."""
        context = self._video.codec_context
        size: tuple[int, int] | None = context.width, context.height
        if context.name == "mjpeg":  # whose decoder forgets what it refuses
            size = picture_size(bytes(packet))
        return too_large(*size, self._max_picture) if size is not None else ""

    def _check_end(self) -> None:
        """Raise SourceReadError unless this end of the data is an honest one."""
        count = self._progress.pictures
        if self._feed.stale:
            raise self._lost("ended", self._feed.stale)
        if self.live:
            raise self._lost("ended", f"it ended ({self._feed.ended}){self._after()}")
        if early := self._progress.ends_early():
            raise self._error("ended", f"{early}; {count} pictures were read")
        if count:
            if self._progress.falls_short and (refused := self._refused("ended")):
                raise refused
            self._sieve.ends()
        else:
            damaged = f"({self.corrupt_packets} damaged packets)"
            raise self._lost("format", f"no picture in it could be decoded {damaged}")

    def _after(self) -> str:
        return f", after {self._progress.pictures} pictures"

    def _lost(self, cause: str, what: str) -> SourceReadError:
        """That, unless a playlist's server tells what is behind it."""
        return self._refused(cause) or self._error(cause, what)

    def _refused(self, cause: str) -> SourceReadError | None:
        refused = self._asks(cause) if self._asks is not None else None
        return self._error(refused[0], f"{refused[1]}{self._after()}") if refused else None

    def _error(self, cause: str, what: str) -> SourceReadError:
        return SourceReadError(f"{self._shown}: {what}", cause=cause)

    def _describe(self) -> str:
        scheme, transport = self._opened.scheme, self._opened.transport
        context = self._video.codec_context
        size = f"{context.width}x{context.height}" if context.width else "size unknown"
        fps = f"{self.declared_fps:g} fps" if self.declared_fps else "frame rate unknown"
        where = self._container.format.name.partition(",")[0]
        way = f" over {scheme}" if scheme else " file"
        if transport:
            where, way = scheme, f" over {transport.upper()}"
        return f"{context.name}{self._decoder}, {size}, {fps}, {where}{way}"


def _is_live(
    container: InputContainer, spec: SourceSpec, stream: StreamConfig, remembered: Remembered
) -> bool:
    """Whether it delivers in real time. Of HTTP: what has no end, or had none before, or is said to be live.

    A gateway may send a short clip, or close its list, until the camera is back.
    """
    if spec.live is not None:
        return spec.live
    remembered.live = remembered.live or _is_endless(container)
    # Only a recording is looped, or delivered at a rate.
    return remembered.live or bool(stream.live and not stream.loop and stream.pace is None)


def _is_endless(container: InputContainer) -> bool:
    """Whether an HTTP address declares neither a duration nor a length.

    A playlist's own length says nothing of the stream's: there the duration alone counts. Cameras declare
    some huge length of the JPEGs that they send in parts for ever.
    """
    if container.format.name == "mpjpeg":
        return True
    if container.duration is not None:
        return False
    return container.format.name in PLAYLISTS or container.size <= 0
