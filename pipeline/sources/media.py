"""Video through FFmpeg (PyAV): files, RTSP, HTTP, HLS, RTMP, SRT, UDP.

Threads: FFmpeg decodes files with frame and slice threads; live streams with slice threads
alone, because a frame thread holds its frame back until the next one comes (measured: 80 ms at
25 fps with two threads). ``low_delay`` gained nothing on top of slice threads and ``nobuffer``
threw away all that arrived while the stream was being opened (the first two seconds), so neither
is set.

A lost MediaSource is opened again as a new one. Nothing in it outlives its ``close``, but for the thread that
reads a live playlist ahead (``readahead``) and waits in FFmpeg then: it closes the container itself.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Stream

from pipeline.errors import SourceOpenError, SourceReadError
from pipeline.redact import redact
from pipeline.sources import fflog
from pipeline.sources.base import Missed, Picture, Remembered, Source, SourceSpec
from pipeline.sources.bitstream import WholeJpegs, checker
from pipeline.sources.connect import PLAYLISTS, Opened, connect
from pipeline.sources.convert import Converter
from pipeline.sources.damage import MOST_THREADS, Damage, tell_of_damage
from pipeline.sources.ending import Progress
from pipeline.sources.failures import STALL_SHARE, explain, silence
from pipeline.sources.framenumbers import FrameNumbers
from pipeline.sources.hardware import NoHardwareError, on_device
from pipeline.sources.limits import too_large
from pipeline.sources.opened import Once
from pipeline.sources.picturesize import picture_size
from pipeline.sources.playlist import Flags, Repeats
from pipeline.sources.readahead import Ahead, Steps

if TYPE_CHECKING:
    from pipeline.config import StreamConfig

LOG = logging.getLogger(__name__)

_CHANGED = 50
"""Packets in a row that the decoder refuses: what comes is not what was opened any more."""
_CHANGED_AT_END = 10
_MPEG_TS = b"\0\0"
"""What a codec's header begins with there: a start code. A playlist's segments may be MP4, too."""
_NOT_RENEWED = "no new picture: the playlist is not renewed"
_CLOSED = "no new picture: the playlist is closed, and what was live is not given again"
_TOLD_EACH = 60.0
"""Seconds between two warnings that pictures are skipped."""
_STUCK = 5
"""Packets in a row that the decoder refuses, after which it is to forget all at the next key frame."""


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
        self._playlist = self._container.format.name in PLAYLISTS
        if self._playlist:
            for each in self._container.streams:
                if each.index != self._video.index:
                    each.discard = Discard.all  # else FFmpeg loads every variant there is
        tell_of_damage(self._video.codec_context, self.live)
        extradata = bytes(self._video.codec_context.extradata or b"")
        if stream.decode_threads is not None:
            self._video.codec_context.thread_count = stream.decode_threads
        h264 = self._video.codec_context.name == "h264"
        self._numbers = FrameNumbers(extradata) if h264 else None
        at_work = (self._video.codec_context.thread_count or MOST_THREADS) if frame_threads else 1
        self._damage = Damage(self._video.codec_context.name, self._numbers, at_work)
        self._forgets = at_work == 1  # others would lose what they are at work on
        self.frame_count = None if self.live else self._video.frames or None
        rate = self._video.average_rate
        if rate is None and opened.scheme not in ("rtsp", "rtsps"):
            # Of MPEG-TS and the like the video's own header says it; an RTSP camera's may be wrong by two.
            rate = self._video.codec_context.framerate
        self.declared_fps = float(rate) if rate else None
        self._opened = opened
        self._pictured = time.monotonic()
        self._packet_at: float | None = None
        """When the video's last packet came."""
        self._came: float | None = None
        """When what the decoder is given now had come, where that was not just now."""
        self._refused = 0
        # FFmpeg finds the end of a picture where the next one begins, and flags what it has completed when it
        # comes upon a loss: the picture before that which the data is missing of.
        self._segments = self._playlist and extradata.startswith(_MPEG_TS)
        self._flagged_early = self._segments or self._container.format.name == "mpegts"
        self._could_be = checker(self._video.codec_context.name, self._container.format.name)
        self._whole = WholeJpegs() if self._video.codec_context.name == "mjpeg" else None
        self._reader: Ahead | None = None
        self._repeats = Repeats(remembered.seen) if self._playlist and self.live else None
        self._ahead: list[Picture | Missed] = []
        self._skips = stream.live is not False
        """Not where each picture counts, and whoever takes them may take his time."""
        self._missed = 0
        """Pictures that were left out and not told of yet."""
        self._left_out: tuple[float, int, float] = -math.inf, 0, 0.0
        """When that was logged last, and since then: how many, and of how many seconds."""
        self._rest = self._decoded()
        self.description = self._describe("")

    def settle(self) -> None:
        """Decode the first picture, and find out where that was done. Raises SourceError."""
        self._ahead = list(islice(self._rest, 1))
        failure = ""
        try:
            self.description = self._describe(self._opened.decoding.settle(self._video, self._shown))
        except NoHardwareError as error:
            failure = str(error)
        if failure and not self._stop.is_set():
            raise SourceOpenError(f"cannot open {self._shown}: {failure}", cause="hardware")

    def close(self) -> None:
        """Close the container. To be called by the thread that iterates; twice does no harm."""
        if self._reader is None:
            self._container.close()
        else:
            self._reader.close(self._container.close)
        if self._pipe is not None:
            self._pipe.close()

    def _pictures(self) -> Iterator[Picture | Missed]:
        yield from self._ahead
        self._ahead = []
        yield from self._rest

    def _decoded(self) -> Iterator[Picture | Missed]:
        converter, progress = (
            Converter(),
            Progress(self._container, self._video, sized=not self.live, remote=self._remote),
        )
        clock = time.perf_counter
        spent = 0.0
        for packet in self._packets(progress):
            for _ in range(self._missed):
                yield Missed()
            self._missed = 0
            begun, large = clock(), ""
            if packet is not None and packet.is_keyframe and self._forgets and self._refused >= _STUCK:
                self._video.codec_context.flush_buffers()  # VP9's does not get over some by itself
            self._damage.decodes(packet)
            if self._repeats is not None and packet is not None and packet.size:
                self._repeats.decodes(packet)  # it has a time now in any case
            try:
                frames = self._video.decode(packet)
            except av.error.FFmpegError as error:
                if packet is None:
                    continue
                self._skip(packet, error)
                large = self._claims_too_much(packet)
                if not large:
                    continue
            finally:
                spent += clock() - begun
            if large:
                raise SourceReadError(f"{self._shown}: {large}, after {progress.pictures} pictures", "format")
            if frames:
                self._refused = 0
            for n, frame in enumerate(frames):
                if self._damage.hides(frame):
                    continue
                begun = clock()
                pixels = converter.pixels(frame)
                seconds = clock() - begun + spent / (len(frames) - n)
                spent -= spent / (len(frames) - n)
                damaged, key, pts = self._damage.shows(frame), frame.key_frame, self._damage.pts(frame)
                if self._repeats is not None and self._repeats.hides(frame.pts):
                    continue
                progress.pictures += 1
                time_base = frame.time_base or self._video.time_base  # none where it was held back to the end
                yield Picture(pixels, pts, time_base, seconds, None, damaged, self._came, key)
                self._pictured = time.monotonic()
                if self._stop.is_set():
                    return
        if not self._stop.is_set():
            self._check_end(progress)

    def _packets(self, progress: Progress) -> Iterator[Packet[Stream] | None]:
        """The video's packets; damaged ones are skipped and counted. None: no more will come, before the
        reason is raised."""
        flags = Flags(self._container.demux(*progress.watched), self._video.index, segments=self._segments)
        if self._playlist and self.live:
            steps = Steps(self._video.index, self._stall_timeout)
            self._reader = Ahead(flags, steps, self._stop, skips=self._skips)
        packets: Flags | Ahead = flags if self._reader is None else self._reader
        came, limit = time.monotonic(), self._stall_timeout
        while not self._stop.is_set():
            failure: tuple[str, str] | None = None
            packet = None
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                failure = explain(
                    error, remote=self._remote, opening=None, waited=packets.waited, limit=limit
                )
            now, waited = time.monotonic(), packets.waited
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
                if self._reader is not None and self._reader.skipped:
                    self._leave_out(self._reader)
                progress.saw(packet)
                if failure is None and self._remote and self.live and self._without_pictures(packet, now):
                    raise SourceReadError(
                        f"{self._shown}: data comes, but no picture within {limit:.3g} s, after "
                        f"{progress.pictures} pictures{self._playlist_hint('')}",
                        cause="timeout",
                    )
                if self._usable(packet):
                    broken = packets.counts(packet)
                    if self._reader is not None and packet.size and not self._was_given(packet, self._reader):
                        self._reader.wait()
                    yield packet
                    if broken:
                        self._corrupt_packets += 1
                        self._damage.lost(within=True)
            if failure is not None:
                yield None  # pictures that the decoder holds back, to bring them in order, had come
                cause, phrase = failure
                hint = "" if progress.pictures else self._hint()
                hint += self._playlist_hint(cause)
                raise SourceReadError(
                    f"{self._shown}: {phrase}, after {progress.pictures} pictures{hint}", cause=cause
                )

    def _leave_out(self, reader: Ahead) -> None:
        """Count, and log once a minute, what was skipped because decoding is too slow for it."""
        new = sum(self._repeats is None or not self._repeats.again(each, None) for each in reader.skipped)
        self._missed += new
        self._damage.lost()  # where groups are open: for what is shown before the next key picture
        told, count, seconds = self._left_out
        count, seconds, now = count + new, seconds + reader.skipped_seconds, time.monotonic()
        if now - told >= _TOLD_EACH:
            LOG.warning(
                "%s: decoding is too slow for it: %d pictures (%.1f s) were skipped",
                self._shown,
                count,
                seconds,
            )
            told, count, seconds = now, 0, 0.0
        self._left_out = told, count, seconds

    def _was_given(self, packet: Packet[Stream], reader: Ahead) -> bool:
        """Whether the last packet was so over an earlier connection."""
        return self._repeats is not None and self._repeats.again(packet, reader.step)

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

    def _usable(self, packet: Packet[Stream]) -> bool:
        """Whether a packet is for the decoder. One that is not, but should be, is counted."""
        # The stream, not stream_index: that is 0 on the empty packets that flush the decoders.
        if packet.stream.index != self._video.index:
            return False
        if self._could_be is not None and packet.size and not self._could_be(memoryview(packet)):
            self._damage.lost()
            self._refuse()
            return False
        if packet.is_corrupt and not self._flagged_early:
            # Such as the half packet at the end of a file cut short: decoded, it would be a
            # smeared picture.
            self._corrupt_packets += 1
            self._damage.lost()
            return False
        if self._whole is not None and packet.size and not self._whole(memoryview(packet)):
            self._damage.lost(within=True)
        if self._numbers is not None and packet.size:
            if packet.has_sidedata("new_extradata"):
                self._numbers.learn(bytes(packet.get_sidedata("new_extradata")))
            if self._numbers.gap_before(memoryview(packet)):
                self._damage.lost()
        return True

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

    def _playlist_hint(self, cause: str) -> str:
        if self._repeats is not None and self._repeats.only:
            return f"; {_NOT_RENEWED}"
        if self._repeats is not None and cause == "timeout":
            return "; segments that are longer than --stall-timeout need a larger one"
        return ""

    def _skip(self, packet: Packet[Stream], error: av.error.FFmpegError) -> None:
        self._damage.refused()
        self._refuse()
        LOG.debug("%s: packet at %s skipped: %s", self._shown, packet.dts, error.strerror)

    def _refuse(self) -> None:
        self._corrupt_packets += 1
        self._refused += 1
        if self._refused == _CHANGED:
            raise self._changed()

    def _changed(self) -> SourceReadError:
        name = self._video.codec_context.name
        return SourceReadError(
            f"{self._shown}: {self._refused} packets in a row are no {name} that can be decoded: another "
            "codec in mid-stream, or badly damaged",
            cause="changed",
        )

    def _claims_too_much(self, packet: Packet[Stream]) -> str:
        """What to say of a packet that the decoder refused for the size of its picture; "" for another."""
        context = self._video.codec_context
        size: tuple[int, int] | None = context.width, context.height
        if context.name == "mjpeg":  # whose decoder forgets what it refuses
            size = picture_size(bytes(packet))
        return too_large(*size, self._max_picture) if size is not None else ""

    def _check_end(self, progress: Progress) -> None:
        """Raise SourceReadError unless this end of the data is an honest one."""
        count = progress.pictures
        if self._repeats is not None and self._repeats.only:
            raise SourceReadError(f"{self._shown}: {_NOT_RENEWED}", cause="ended")
        if self.live:
            how = "the server closed it, or broke off"
            if self._playlist:
                how = "the playlist was closed, or is not renewed"
            raise SourceReadError(f"{self._shown}: it ended ({how}), after {count} pictures", cause="ended")
        if early := progress.ends_early():
            raise SourceReadError(f"{self._shown}: {early}; {count} pictures were read", cause="ended")
        if count and self._refused >= _CHANGED_AT_END:
            raise self._changed()
        if count == 0:
            raise SourceReadError(
                f"{self._shown}: no picture in it could be decoded ({self._corrupt_packets} damaged packets)",
                cause="format",
            )

    def _describe(self, decoded: str) -> str:
        scheme, transport = self._opened.scheme, self._opened.transport
        context = self._video.codec_context
        size = f"{context.width}x{context.height}" if context.width else "size unknown"
        fps = f"{self.declared_fps:g} fps" if self.declared_fps else "frame rate unknown"
        where = self._container.format.name.partition(",")[0]
        way = f" over {scheme}" if scheme else " file"
        if transport:
            where, way = scheme, f" over {transport.upper()}"
        return f"{context.name}{decoded}, {size}, {fps}, {where}{way}"


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
