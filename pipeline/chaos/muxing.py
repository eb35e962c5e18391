"""Coded pictures as RTP packets, an MPEG-TS or JPEGs: FFmpeg's muxers and encoders write into memory."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import av
import av.error
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext

from pipeline.chaos.clip import TICKS, Clip, encoder_for
from pipeline.chaos.reel import Shot

RTP_HEAD = 12
"""Bytes before the payload of an RTP packet."""
TS_PACKET = 188
"""Bytes of a packet of MPEG-TS."""
TS_HEAD = 4
_PAYLOAD_TYPE = 96
_MTU = 1400
_RTP_NAMES = {"h264": "H264", "hevc": "H265", "mjpeg": "JPEG"}
_RTP = {"packetsize": str(_MTU), "rtpflags": "+skip_rtcp", "payload_type": str(_PAYLOAD_TYPE)}
# Its counters begin anew; a discontinuity that is announced is no lost packet.
_TS = {"flush_packets": "1", "mpegts_flags": "+initial_discontinuity"}
_ROUND = 1 << 33
IN_TS = frozenset({"h264", "hevc"})
"""Codecs that MPEG-TS can hold."""


class _Memory:
    """What a muxer writes; one write is one packet where the format has packets."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Keep it."""
        self._written.append(bytes(data))
        return len(data)

    def taken(self) -> list[bytes]:
        """What was written since the last call."""
        written, self._written = self._written, []
        return written


class _Muxer:
    """One of FFmpeg's muxers, with one stream of a clip's codec. Closing it is its user's part."""

    def __init__(self, form: str, clip: Clip, options: dict[str, str]) -> None:
        self.clip, self._memory = clip, _Memory()
        self._container: OutputContainer = av.open(self._memory, "w", format=form, options=options)
        # With a template's extradata, the muxer would look for length prefixes instead of start codes.
        self._stream = self._container.add_mux_stream(clip.codec, width=clip.width, height=clip.height)

    def write(self, shot: Shot, pts: int, dts: int) -> list[bytes]:
        """What a picture becomes."""
        packet = av.Packet(shot.data)
        packet.pts, packet.dts, packet.time_base = pts, dts, Fraction(1, TICKS)
        packet.is_keyframe = shot.key
        packet.stream = self._stream
        self._container.mux(packet)
        return self._memory.taken()

    def close(self) -> None:
        """Close it."""
        self._container.close()


class Packetizer:
    """RTP packets of pictures (RFC 6184, 7798, 2435), over changes of resolution. To be closed."""

    def __init__(self, chance: random.Random) -> None:
        self._sequence, self._base, self._ssrc = (chance.getrandbits(bits) for bits in (16, 32, 32))
        self._muxer: _Muxer | None = None
        self._count = 0
        self._jpegs = Jpegs(standard=True)

    def packets(self, shot: Shot) -> Iterator[bytes]:
        """The packets of one picture, of at most 1400 bytes."""
        if shot.clip.codec == "mjpeg":
            shot = replace(shot, data=b"".join(self._jpegs.pictures(shot)))
        if self._muxer is None or self._muxer.clip != shot.clip:
            self.close()
            self._muxer = _Muxer("rtp", shot.clip, _RTP)
        # The muxer cuts; sequence, time and source are ours: it wants times that rise, and draws its own.
        self._count += 1
        for packet in self._muxer.write(shot, self._count, self._count):
            first, second = packet[0], packet[1]
            stamp = (self._base + shot.pts) & 0xFFFFFFFF
            yield struct.pack(">BBHII", first, second, self._sequence, stamp, self._ssrc) + packet[RTP_HEAD:]
            self._sequence = (self._sequence + 1) & 0xFFFF

    def close(self) -> None:
        """Close the muxer."""
        if self._muxer is not None:
            self._muxer.close()


def sdp(clip: Clip, host: str) -> str:
    """The session description (RFC 8866) of one video track, ``track0``."""
    family = "IP6" if ":" in host else "IP4"
    lines = [
        "v=0",
        f"o=- 0 0 IN {family} {host}",
        "s=framerail chaos",
        f"c=IN {family} {host}",
        "t=0 0",
        "a=control:*",
        "a=range:npt=now-",
        f"m=video 0 RTP/AVP {_PAYLOAD_TYPE}",
        f"a=rtpmap:{_PAYLOAD_TYPE} {_RTP_NAMES[clip.codec]}/{TICKS}",
        *([f"a=fmtp:{_PAYLOAD_TYPE} packetization-mode=1"] if clip.codec == "h264" else []),
        f"a=framerate:{float(clip.fps):g}",
        "a=control:track0",
    ]
    return "\r\n".join(lines) + "\r\n"


class Transport:
    """Packets of an MPEG-TS of pictures, over changes of resolution and codec. To be closed."""

    def __init__(self) -> None:
        self._muxer: _Muxer | None = None
        self._dts = 0

    def packets(self, shot: Shot) -> Iterator[bytes]:
        """The packets, of 188 bytes, of one picture."""
        if self._muxer is None or self._muxer.clip != shot.clip or shot.dts <= self._dts:
            # FFmpeg's muxer refuses times that do not rise: those of faults, so another goes on with them.
            self.close()
            self._muxer = _Muxer("mpegts", shot.clip, _TS)
        self._dts = shot.dts
        # Times count in 33 bits, so those before 0 are late in the round before; the muxer would move them.
        lift = 0 if shot.dts >= 0 else _ROUND
        data = b"".join(self._muxer.write(shot, shot.pts + lift, shot.dts + lift))
        for place in range(0, len(data), TS_PACKET):
            yield data[place : place + TS_PACKET]

    def close(self) -> None:
        """Close the muxer."""
        if self._muxer is not None:
            self._muxer.close()


class Jpegs:
    """Pictures as JPEGs, coded anew where they are none, or, with ``standard``, all of them.

    RTP can send only those with the standard's own Huffman tables (RFC 2435), and few files hold such.
    """

    def __init__(self, standard: bool = False) -> None:
        self._standard = standard
        self._clip: Clip | None = None
        self._decoder: VideoCodecContext | None = None
        self._encoder: VideoCodecContext | None = None
        self._count = 0

    def pictures(self, shot: Shot) -> Iterator[bytes]:
        """The JPEGs that this picture lets go: none while it waits for others, mostly one."""
        if shot.clip.codec == "mjpeg" and not self._standard:
            yield shot.data
            return
        if self._clip != shot.clip:
            self._clip = shot.clip
            decoder = av.CodecContext.create(shot.clip.codec, "r")
            assert isinstance(decoder, VideoCodecContext)
            # Frame threads would each hold a picture back.
            decoder.thread_count = 1
            self._decoder, self._encoder = decoder, encoder_for(shot.clip, "mjpeg")
        assert self._decoder is not None and self._encoder is not None
        packet = av.Packet(shot.data)
        packet.pts, packet.dts, packet.time_base = shot.pts, shot.dts, Fraction(1, TICKS)
        for frame in self._decoder.decode(packet):
            picture = frame.reformat(format="yuvj420p")
            self._count += 1
            picture.pts, picture.time_base = self._count, self._encoder.time_base
            yield from (bytes(part) for part in self._encoder.encode(picture))
