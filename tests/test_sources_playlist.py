"""Live playlists: no damage where segments meet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import pytest
from av.packet import Packet

from pipeline.config import StreamConfig
from pipeline.errors import SourceReadError
from pipeline.sources import Picture, Remembered, encode_number, open_source, parse_source, read_number
from pipeline.sources.playlist import Flags
from tests.clips import make_clip
from tests.servers import http_server

EACH = 10
"""Pictures of a segment."""


class Live:
    """A playlist in a folder. Each segment is a file by itself: it counts MPEG-TS's packets from 0."""

    def __init__(self, folder: Path, *, target: int = 60, claimed: float = 60) -> None:
        """After a ``claimed`` length, in seconds, and after half a ``target`` again, FFmpeg asks for a new
        list."""
        self.folder, self._target, self._claimed = folder, target, claimed
        self.count = 0

    def add(self, segments: int = 1, *, begins: int | None = None, codec: str = "libx264", **keys) -> None:
        """``begins``: numbers of pictures count from there, times do not."""
        for _ in range(segments):
            first = self.count * EACH
            numbers = range(EACH) if begins is None else range(begins, begins + EACH)
            shift = first if begins is None else 0
            images = [encode_number(number + shift, 48, 64) for number in numbers]
            make_clip(
                self.folder / f"{self.count}.ts", images=images, pts=range(first + EACH, first + 2 * EACH),
                gop=EACH, codec=codec, **keys,
            )  # fmt: skip
            self.count += 1

    def show(self, first: int = 0, *, closed: bool = False, between: str = "") -> None:
        listed = "".join(f"{between}#EXTINF:{self._claimed},\n{n}.ts\n" for n in range(first, self.count))
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:{self._target}\n#EXT-X-MEDIA-SEQUENCE:{first}\n{listed}"
        new = self.folder / "new.m3u8"
        new.write_text(text + "#EXT-X-ENDLIST\n" * closed)
        new.replace(self.folder / "list.m3u8")


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(tmp_path)


def read(url: str, remembered: Remembered, **stream) -> tuple[list[int], SourceReadError | None]:
    """The numbers of all pictures, and how it ended."""
    numbers: list[int] = []
    config = StreamConfig(source=url, **stream)
    source = open_source(parse_source(url), config, threading.Event(), remembered)
    try:
        with source:
            for picture in source:
                assert isinstance(picture, Picture)
                numbers.append(read_number(picture.image))
    except SourceReadError as error:
        return numbers, error
    return numbers, None


# Flags


def test_a_list_that_grows_is_read_without_a_loss(tmp_path: Path) -> None:
    live = Live(tmp_path, target=6, claimed=0.4)
    live.add(6)
    whole, live.count = live.count, 3
    live.show()
    over = threading.Event()

    def grow() -> None:
        while live.count < whole and not over.wait(0.4):
            live.count += 1
            live.show()

    thread = threading.Thread(target=grow)
    with http_server(live.folder) as server:
        thread.start()
        try:
            url = f"{server.url}/list.m3u8"
            source = open_source(parse_source(url), StreamConfig(source=url), threading.Event())
            with source:
                numbers = [
                    read_number(each.image) for each in islice(source, 50) if isinstance(each, Picture)
                ]
        finally:
            over.set()
            thread.join()
    assert numbers == list(range(50))
    assert source.corrupt_packets == 0


@pytest.mark.parametrize("between", ["", "#EXT-X-DISCONTINUITY\n"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("lengths", ["0", "1"])
def test_segments_that_count_their_packets_anew_are_whole(
    live: Live, between: str, codec: str, lengths: str
) -> None:
    """``lengths``: whether the video's data declares how long it is, as it may."""
    live.add(4, codec=codec, container_options={"omit_video_pes_length": str(1 - int(lengths))})
    live.show(closed=True, between=between)
    with http_server(live.folder) as server:
        url = f"{server.url}/list.m3u8"
        source = open_source(parse_source(url), StreamConfig(source=url), threading.Event())
        with source:
            pictures = [each for each in source if isinstance(each, Picture)]
    assert [read_number(each.image) for each in pictures] == list(range(40))
    assert source.corrupt_packets == 0
    assert not any(each.damaged for each in pictures)


def test_a_loss_within_a_segment_is_one(live: Live) -> None:
    live.add(3)
    data = (live.folder / "1.ts").read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    video = [n for n, each in enumerate(packets) if (each[1] & 0x1F) << 8 | each[2] == 256]
    starts = [n for n in video if packets[n][1] & 0x40]
    del packets[starts[4] + 1 if starts[4] + 1 in video else starts[4]]
    (live.folder / "1.ts").write_bytes(b"".join(packets))
    live.show(closed=True)
    with http_server(live.folder) as server:
        url = f"{server.url}/list.m3u8"
        source = open_source(parse_source(url), StreamConfig(source=url), threading.Event())
        with source:
            pictures = [each for each in source if isinstance(each, Picture)]
    assert source.corrupt_packets >= 1
    damaged = [read_number(each.image) for each in pictures if each.damaged]
    assert damaged and damaged[-1] == 19 and damaged[0] >= 13


def test_an_end_behind_a_flag_is_told_after_all_that_came() -> None:
    class Flagged:
        is_corrupt, is_keyframe, size = True, False, 10

        class stream:  # noqa: N801
            index = 0

    given = [Flagged(), Flagged()]

    def packets() -> Iterator[Packet]:
        yield from given  # type: ignore[misc]
        raise av.error.ExitError(1, "over")

    flags = Flags(packets(), 0, segments=True)
    assert [next(flags), next(flags)] == given and flags.counts(given[1])  # type: ignore[arg-type]
    with pytest.raises(av.error.ExitError):
        next(flags)
