"""Whether a file's end is its real end.

FFmpeg reports the end of a file that was cut short as an ordinary end (ran, for MP4, AVI and
Matroska), so what was read is held against what the file says of itself. MPEG-TS and raw
streams say nothing: there a cut cannot be told.
"""

from __future__ import annotations

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

_MATROSKA_SLACK = 0.2
"""Seconds by which a Matroska file may end before the duration in its header."""
_LIST_SLACK = 0.5
"""And pictures before the sum of a playlist's segments, whose lengths are often rounded."""


class Progress:
    """What has been read of a container so far.

    ``watched`` are the streams to demux: all of a Matroska file's, whose duration is that of the
    longest, and of one that comes over a network, whose sound may go on without pictures; else the
    video alone.
    """

    def __init__(self, container: InputContainer, video: VideoStream, *, sized: bool, remote: bool) -> None:
        self.pictures = 0
        self._packets = 0
        self._reached = 0.0
        self._container, self._video = container, video
        name = container.format.name
        self._matroska = sized and name.startswith("matroska") and container.duration is not None
        self._avi = sized and name == "avi"
        self.watched: tuple[Stream, ...] = tuple(container.streams) if self._matroska or remote else (video,)
        # Taken now: an end of file may close what these ask.
        self._size = container.size if sized else 0
        self._index_end = max((e.pos + e.size for e in video.index_entries), default=0) if sized else 0

        of_list = sized and name == "hls" and container.duration is not None
        self._listed = ((container.duration or 0) + (container.start_time or 0)) / 1e6 if of_list else 0.0

    @property
    def falls_short(self) -> bool:
        """Whether a playlist names more than there was. By itself that proves nothing: its times may jump."""
        return self._reached < self._listed - _LIST_SLACK

    def saw(self, packet: Packet[Stream]) -> None:
        """Count a packet."""
        if not packet.size:
            return
        self._packets += packet.stream.index == self._video.index
        if packet.pts is not None and packet.time_base is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._reached = max(self._reached, end)

    def ends_early(self) -> str | None:
        """Why this end is not the real one, or None."""
        declared = self._video.frames
        if self._size > 0 and self._index_end > self._size:
            return (
                f"the file ends early: it has {self._size} bytes, and its index names "
                f"{declared or 'some'} pictures up to byte {self._index_end}"
            )
        rate = self._video.average_rate
        if self._avi and rate and self._packets < declared and self._reached < (declared - 2) / float(rate):
            return f"the file ends early: its header names {declared} pictures"
        if self._matroska:
            start = self._container.start_time or 0
            promised = ((self._container.duration or 0) + start) / 1e6
            slack = max(_MATROSKA_SLACK, 2 / float(rate)) if rate else _MATROSKA_SLACK
            if self._reached < promised - slack:
                return (
                    f"the file ends early: its header names {promised:.2f} s, {self._reached:.2f} s are there"
                )
        return None
