"""What a source that nobody vouches for may demand: which protocols it can send us to, how large a picture.

A playlist names further addresses, and FFmpeg by itself follows those of ``tcp://``, ``udp://`` and a pipe
anywhere, files of this machine included (tried with FFmpeg 8.1: a TCP server that sends a playlist of
``file:`` segments has them read).
"""

from __future__ import annotations

# FFmpeg's protocols by scheme: what the first one itself is made of, and no other.
_WEB = "http,https,httpproxy,tls,tcp,crypto,data"
_RTSP = "rtp,srtp,udp,tcp,tls,http,https"
PROTOCOLS = {
    "": "file",
    "http": _WEB,
    "https": _WEB,
    "rtsp": _RTSP,
    "rtsps": _RTSP,
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,tls,tcp",
    "srt": "srt",
    "udp": "udp",
    "tcp": "tcp",
    "rtp": "rtp,udp",
}
"""By scheme of the address ("" for a file): what FFmpeg calls a protocol white list."""


def too_large(width: int, height: int, most: int) -> str:
    """What to say of a picture of more than ``most`` pixels; "" for one that is not."""
    if width * height <= most:
        return ""
    return f"its picture of {width}x{height} has more pixels than max_picture allows ({most:,})"
