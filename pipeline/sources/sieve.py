"""Which packets of a video its decoder is given, and how many are damaged."""

from __future__ import annotations

import logging

import av.error
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from pipeline.errors import SourceReadError
from pipeline.sources.bitstream import WholeJpegs, checker
from pipeline.sources.damage import Damage
from pipeline.sources.framenumbers import FrameNumbers

LOG = logging.getLogger(__name__)

_CHANGED = 50
"""Packets in a row that the decoder refuses: what comes is not what was opened any more."""
_CHANGED_AT_END = 10
_STUCK = 5
"""Packets in a row that the decoder refuses, after which it is to forget all at the next key frame."""


class Sieve:
    """Of one source: tells ``damage`` of every packet that lacks data, or is refused, and counts it."""

    def __init__(
        self,
        video: VideoStream,
        container: str,
        numbers: FrameNumbers | None,
        damage: Damage,
        *,
        flagged_early: bool,
        shown: str,
    ) -> None:
        """``container`` is its format's name; ``numbers`` reads packets of H.264 (None: it is another codec).
        ``flagged_early``: packets may be flagged as corrupt that are not."""
        self._video, self._numbers, self._damage = video, numbers, damage
        self._flagged_early, self._shown = flagged_early, shown
        name = video.codec_context.name
        self._could_be = checker(name, container)
        self._whole = WholeJpegs() if name == "mjpeg" else None
        self._refused = 0
        """Packets in a row that were."""
        # What they code as a difference has a number that no other picture's has close by. What stands alone,
        # or has none, may be the same picture of a camera whose clock stands still; and it spoils nothing.
        self._numbered = name in ("h264", "hevc")
        self._last: Packet[Stream] | None = None
        self.damaged = 0
        """Packets that lack data, that the decoder refused, or that came twice."""
        self.over: SourceReadError | None = None
        """What ends the reading, where for too long no packet was for the decoder."""

    def takes(self, packet: Packet[Stream]) -> bool:
        """Whether a packet is for the decoder."""
        # The stream, not stream_index: that is 0 on the empty packets that flush the decoders.
        if packet.stream.index != self._video.index:
            return False
        if self._could_be is not None and packet.size and not self._could_be(memoryview(packet)):
            self._damage.lost()
            self._refuse()
            return False
        if self._came_before(packet):
            self.damaged += 1
            return False
        if packet.is_corrupt and not self._flagged_early:
            # Such as the half packet at the end of a file cut short: decoded, it would be a
            # smeared picture.
            self.damaged += 1
            self._damage.lost()
            return False
        if self._whole is not None and packet.size and not self._whole(memoryview(packet)):
            self._damage.lost(within=True, counted=False)
        if self._numbers is not None and packet.size:
            if packet.has_sidedata("new_extradata"):
                self._numbers.learn(bytes(packet.get_sidedata("new_extradata")))
            if self._numbers.gap_before(memoryview(packet)):
                self._damage.lacks_picture()
        return True

    def _came_before(self, packet: Packet[Stream]) -> bool:
        """Whether it is the packet before once more, as some senders have it: decoded, it would be a picture
        that was never taken, and would spoil what is coded as a difference from it."""
        if not self._numbered:
            return False
        last, self._last = self._last, packet if packet.size else None
        if last is None or packet.pts is None or packet.pts != last.pts or packet.is_keyframe:
            return False
        return memoryview(packet) == memoryview(last)

    def lacked_data(self) -> None:
        """The packet that the decoder was given last did."""
        self.damaged += 1
        self._damage.lost(within=True)

    def refused(self, packet: Packet[Stream], error: av.error.FFmpegError) -> None:
        """The decoder has refused it."""
        self._damage.refused()
        self._refuse()
        LOG.debug("%s: packet at %s skipped: %s", self._shown, packet.dts, error.strerror)

    def decoded(self) -> None:
        """Pictures have come of a packet."""
        self._refused = 0

    @property
    def stuck(self) -> bool:
        """Whether the decoder takes nothing, and had better forget all at a key frame."""
        return self._refused >= _STUCK

    def ends(self) -> None:
        """Raises SourceReadError where the last packets were all refused."""
        if self._refused >= _CHANGED_AT_END:
            raise self._changed()

    def _refuse(self) -> None:
        self.damaged += 1
        self._refused += 1
        if self._refused == _CHANGED:
            self.over = self._changed()

    def _changed(self) -> SourceReadError:
        name = self._video.codec_context.name
        return SourceReadError(
            f"{self._shown}: {self._refused} packets in a row are no {name} that can be decoded: another "
            "codec in mid-stream, or badly damaged",
            cause="changed",
        )
