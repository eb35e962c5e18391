"""The packets of a container, also where PyAV's own iterator gives up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

_MOST_TRIES = 1000
"""In a row, of which none brought a packet: each skips what is no container, up to 64 kB of it."""


def demuxed(container: InputContainer, streams: Sequence[Stream]) -> Iterator[Packet[Stream]]:
    """Packets of ``streams``, and at the end an empty one for each, which flushes its decoder.

    Raises what FFmpeg does, but not that it is to be asked again (EAGAIN), as it does of junk between packets
    of MPEG-TS: that ends PyAV's iterator. Nor what PyAV 18.1 does at the end, where a track came up in
    mid-stream: it looks for it in a list of those that there were in the beginning. All others have been
    flushed by then.
    """
    tries = 0
    while True:
        try:
            for packet in container.demux(*streams):
                tries = 0
                yield packet
        except IndexError:
            return
        except av.error.BlockingIOError:
            tries += 1
            if tries >= _MOST_TRIES:
                raise
        else:
            return
