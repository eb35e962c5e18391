"""Which pictures lost data has spoilt: those that the decoder marks, and those that are made from them."""

from __future__ import annotations

from collections import deque

from av.codec.context import Flags
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from pipeline.sources.framenumbers import FrameNumbers

MOST_THREADS = 16
"""That FFmpeg takes where their number is left to it."""
_HEALED = 300
"""Pictures after which all has been coded anew where no key frame comes: some encoders refresh bit by bit."""
_HELD_BACK = 64
"""Packets whose pictures a decoder may hold back, at most."""
_IN_ORDER = frozenset({"vp8", "vp9", "av1", "mjpeg"})
"""Codecs whose decoders bring pictures, and say what they refuse, in the order of packets."""
_UNTIMED = -(2**62)
"""Packets without a PTS get made-up ones above this, so that their pictures are known again."""


def tell_of_damage(context: VideoCodecContext, live: bool) -> None:
    """Have FFmpeg give out, marked, what it would throw away or patch up and tell nobody.

    Without ``output_corrupt`` it throws away what comes between lost data and the next key frame: of H.264
    with B-frames 359 pictures of 603 for 15 lost packets. With slice threads its H.264 decoder marks next to
    nothing (3 of 265 pictures instead of 41, for 67 lost RTP packets): live streams, which have no frame
    threads, are decoded by one thread unless more are asked for (of other codecs by two).
    """
    context.flags |= Flags.output_corrupt
    if live:
        context.thread_count = 1 if context.name == "h264" else 2


class Damage:
    """Of one source, in order: from lost data on, every picture is damaged until the next whole key frame, or
    for _HEALED of them.

    The decoder itself marks hardly more than the picture that data is missing of (H.264), though those that
    follow are coded as differences from it: 15 pictures of 189 that can be seen to be wrecked, 184 with this.
    """

    def __init__(self, codec: str, h264: FrameNumbers | None, delay: int = 1) -> None:
        """``h264`` reads its packets (None: it is another codec). ``delay``: how many packets after one that
        it refuses the decoder says so, at most: those that frame threads are at work on."""
        self._in_order, self._h264, self._delay = codec in _IN_ORDER, h264, delay
        self._without: deque[int] = deque()
        """Numbers of packets without a picture."""
        self._joined = False
        self._count = 0
        """Packets that the decoder was given."""
        self._numbers: dict[int | None, int] = {}
        """Theirs, by PTS: decoders hold pictures back, and bring them in another order."""
        self._losses: deque[int] = deque()
        """Numbers of packets behind a loss, which no picture has come of yet."""
        self._broken: deque[int] = deque(maxlen=_HELD_BACK)
        """Numbers of packets that data is missing of."""
        self._uncounted: deque[int] = deque(maxlen=_HELD_BACK)
        """Those of them that are counted once a picture has come of them: they may be refused as well."""
        self._refusals: deque[int] = deque()
        """Numbers of packets at which others, themselves or shortly before, turned out to be refused."""
        self._since: int | None = None
        """The first of them since the last whole key frame; None: nothing is missing."""
        self._latest = 0
        """The last of them."""
        self.found = 0
        """Losses that nobody counted when packets came: a picture is marked, or is missing, though nothing
        was known to be; and what is found by others."""

    def decodes(self, packet: Packet[Stream] | None) -> None:
        """The decoder is given a packet now; None, or an empty one: the end."""
        if packet is not None and packet.size:
            self._count += 1
            if packet.pts is None:
                packet.pts = _UNTIMED + self._count
            if self._h264 is not None and not self._h264.holds_picture(memoryview(packet)):
                self._without.append(self._count)
            else:
                self._numbers[packet.pts] = self._count
            if len(self._numbers) > _HELD_BACK:
                del self._numbers[next(iter(self._numbers))]

    def refused(self) -> None:
        """The decoder has refused a packet, this one or, where it has frame threads, one before it. Of H.264
        it does so with those that hold no picture, too, such as captions: then nothing is missing."""
        while self._without and self._count - self._without[0] >= _HELD_BACK:
            self._without.popleft()
        if self._without:
            self._without.popleft()
        else:
            self._refusals.append(self._count)

    def lost(self, *, within: bool = False, counted: bool = True) -> None:
        """Something is missing from here on. ``within``: of the next packet itself, too, which heals nothing
        then. It is ``counted`` by who found that, or is once a picture has come of the packet."""
        self._losses.append(self._count + 1)
        if within:
            self._broken.append(self._count + 1)
            if not counted:
                self._uncounted.append(self._count + 1)

    def lacks_picture(self) -> None:
        """One is missing before the next packet's."""
        # Frame threads tell late of what they refuse.
        self.found += self._delay == 1 and self._unexplained(self._count + 1)
        self.lost()

    def _unexplained(self, number: int) -> bool:
        known = self._since is not None or self._refusals or self._losses
        return not known and number not in self._broken

    def hides(self, frame: VideoFrame) -> bool:
        """Whether it is no picture at all yet: a stream is joined between key frames."""
        self._joined = self._joined or not frame.is_corrupt
        return not self._joined

    def shows(self, frame: VideoFrame) -> bool:
        """Whether a picture is damaged."""
        number = self._numbers.pop(frame.pts, self._count)
        broken = frame.is_corrupt or number in self._broken
        self.found += broken and (number in self._uncounted or self._unexplained(number))
        self._settle(number, frame.key_frame)
        while self._losses and self._losses[0] <= number:
            self._latest = self._losses.popleft()
            self._since = self._latest if self._since is None else self._since
        if frame.key_frame or number - self._latest >= _HEALED:
            self._since = None
        if broken:
            self._since, self._latest = number if self._since is None else self._since, number
        if self._refusals and not frame.key_frame and number > self._refusals[0] - self._delay:
            return True
        # What was decoded before the loss may come out after it, in the order of display.
        return self._since is not None and (number >= self._since or broken)

    def _settle(self, number: int, key: bool) -> None:
        """Forget refusals that the picture of packet ``number`` heals. One that was told of after a key
        picture's packet was given may be of a packet before that, if the decoder has been at work on it so
        long: which then never has a picture, and is told of by no other refusal; or it is, because the key
        picture would have come before it."""
        while self._refusals and number - self._refusals[0] >= _HEALED:
            self._refusals.popleft()
        if not key:
            return
        never = [pts for pts, before in self._numbers.items() if before < number]
        for pts in never:
            del self._numbers[pts]
        behind = [refusal for refusal in self._refusals if refusal > number]
        left = len(behind) if self._in_order else len(never) - (len(self._refusals) - len(behind))
        late = sum(refusal - self._delay < number for refusal in behind[: max(left, 0)])
        self._refusals = deque(behind[late:])

    @staticmethod
    def pts(frame: VideoFrame) -> int | None:
        """The picture's, None where its packet had none."""
        return None if frame.pts is None or frame.pts < _UNTIMED // 2 else frame.pts
