"""What a source that nobody vouches for may demand: which protocols it can send us to, how large a picture,
how many tracks, how much memory.

A playlist names further addresses, and FFmpeg by itself follows those of ``tcp://``, ``udp://`` and a pipe
anywhere, files of this machine included (tried with FFmpeg 8.1: a TCP server that sends a playlist of
``file:`` segments has them read).
"""

from __future__ import annotations

# FFmpeg's protocols by scheme: what the first one itself is made of, and no other.
_WEB = "http,https,httpproxy,tls,tcp,crypto,data"
# Without rtsp itself, which FFmpeg asks for where a server redirects: it would take the password along (tried
# with FFmpeg 8.1), and connect 1,600 times a second to one that redirects to itself.
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


MOST_TRACKS = 100
"""Of a container: FFmpeg decodes the first pictures of each to find out what it holds."""
_OWN_MEMORY = 512 << 20
_BYTES_PER_PIXEL = 64
"""What decoding may take, by the largest picture: 1.5 bytes a pixel (4:2:0), 16 pictures that others are made
from, and as many again at work in threads."""

_THREADS, _THREAD_MEMORY = 16, 16 << 20
"""Threads for which that is enough; each further one has a picture, and a stack."""


def most_memory(max_picture: int, threads: int | None) -> int:
    """Bytes that the process of an isolated source may have as its own, pictures in slots aside."""
    further = max(0, (threads or 0) - _THREADS)
    return _OWN_MEMORY + _BYTES_PER_PIXEL * max_picture + further * (_THREAD_MEMORY + 2 * max_picture)


def too_large(width: int, height: int, most: int) -> str:
    """What to say of a picture of more than ``most`` pixels; "" for one that is not."""
    if width * height <= most:
        return ""
    allowed = f"max_picture allows ({most:,}; raise it for a source that is to be trusted)"
    return f"its picture of {width}x{height} has more pixels than {allowed}"
