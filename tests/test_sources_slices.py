"""Key pictures that come in several packets: of a real server, which sends parameter sets before each."""

from __future__ import annotations

import threading
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import av.error
import pytest

from pipeline.config import StreamConfig
from pipeline.sources import Remembered, open_source, parse_source, read_number
from pipeline.sources.base import Picture
from pipeline.sources.slices import joined
from tests.clips import make_clip
from tests.servers import gst_rtsp_server


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, options = tmp_path_factory.mktemp("slices") / "sliced.ts", {"slices": "4", "bf": "0"}
    return make_clip(path, frames=120, fps=25, gop=10, size=(320, 256), options=options, format="mpegts")


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_key_picture_of_several_slices_is_one(clip: Path, transport: str) -> None:
    with gst_rtsp_server(clip, transport=transport) as server:
        config = StreamConfig(source=server.url, rtsp_transport=transport, live=False)
        with open_source(parse_source(server.url), config, threading.Event(), Remembered()) as source:
            got = [picture for picture in islice(source, 60) if isinstance(picture, Picture)]
            assert source.corrupt_packets == 0
    assert not any(picture.damaged for picture in got)
    numbers = [read_number(picture.image) for picture in got]
    assert numbers == list(range(numbers[0], numbers[0] + 60))
    assert len({b.pts - a.pts for a, b in pairwise(got)}) == 1


class Pieces:
    """A clip's packets as that server and FFmpeg make them: each slice of a key picture in one of its own,
    behind the parameter sets. ``over`` is raised behind them; the first ``untimed`` ones have no time."""

    def __init__(self, clip: Path, over: BaseException | None = None, untimed: int = 0) -> None:
        self.whole: list[bytes] = []
        self.packets: list[Any] = []
        self.video: Any = SimpleNamespace(index=0)
        self._container = av.open(str(clip))  # a packet's stream is gone when that is closed
        for packet in self._container.demux(video=0):
            if packet.size:
                self._cut(packet)
        for packet in self.packets[:untimed]:
            packet.pts = packet.dts = None
        self._over = over

    def _cut(self, packet: Any) -> None:
        units = [b"\0\0\1" + unit.rstrip(b"\0") for unit in bytes(packet).split(b"\0\0\1")[1:]]
        slices = [unit for unit in units if unit[3] & 0x1F in (1, 5)]
        sets = b"".join(unit for unit in units if unit[3] & 0x1F in (7, 8))
        self.whole.append(sets + b"".join(slices))
        for part in [sets + each for each in slices] if packet.is_keyframe else [b"".join(slices)]:
            piece = av.Packet(part)
            piece.stream, piece.pts, piece.dts = packet.stream, packet.pts, packet.dts
            piece.is_keyframe, piece.time_base = packet.is_keyframe, packet.time_base
            self.packets.append(piece)

    def __iter__(self) -> Any:
        yield from self.packets
        if self._over is not None:
            raise self._over


@pytest.mark.parametrize("untimed", [0, 1])
def test_what_was_cut_is_whole_again(clip: Path, untimed: int) -> None:
    pieces = Pieces(clip, untimed=untimed)
    assert len(pieces.packets) >= 120 + 12
    got = list(joined(iter(pieces), pieces.video))
    assert [bytes(packet) for packet in got] == pieces.whole
    times = {packet.pts for packet in pieces.packets} - {None}
    assert [packet.pts for packet in got] == sorted(times)


def test_what_is_held_back_comes_before_the_error(clip: Path) -> None:
    pieces = Pieces(clip, av.error.ConnectionResetError(104, "reset"))
    del pieces.packets[2:]  # a key picture alone
    got = joined(iter(pieces), pieces.video)
    assert bytes(next(got)) == pieces.whole[0]
    with pytest.raises(av.error.ConnectionResetError):
        next(got)
