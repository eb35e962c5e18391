"""Tracks that come up, or move, in mid-stream, and what is no container at all between packets."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import SourceReadError
from pipeline.sources import Picture, read_number
from tests.clips import make_clip, make_sound
from tests.test_sources_media import numbers, opened

TS = 188
FRAMES = 75


def other_tracks(path: Path, count: int = 1) -> bytes:
    """The video in ``path`` as MPEG-TS, so many times, in tracks numbered from another one on."""
    to = path.with_suffix(".other.ts")
    with (
        av.open(str(path)) as source,
        av.open(str(to), "w", options={"mpegts_start_pid": "300"}) as out,
    ):
        tracks = [out.add_stream_from_template(source.streams.video[0]) for _ in range(count)]
        for packet in source.demux(video=0):
            for track in tracks:
                if packet.size:
                    packet.stream = track
                    out.mux(packet)
    return to.read_bytes()


@contextlib.contextmanager
def sent(pieces: Iterable[bytes], seconds_each: float) -> Iterator[str]:
    """The address of a server that sends these, evenly, to whoever connects, and then says nothing."""
    over = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                held.append(connection)
                threading.Thread(target=send, args=(connection,), daemon=True).start()

    def send(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
                if over.wait(seconds_each):
                    return

    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in held:
                connection.close()


def parts(data: bytes, size: int = 10 * TS) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("tracks") / "clip.ts", frames=FRAMES, options={"bf": "0"})


def test_tracks_that_come_up_in_mid_stream_end_nothing(tmp_path: Path) -> None:
    """PyAV reads past its list of tracks there: with nine of them it hardly finds only zeros."""
    noise = np.random.default_rng(0).integers(0, 255, (FRAMES, 120, 160, 3), dtype=np.uint8)
    large = make_clip(
        tmp_path / "large.ts",
        images=noise,
        size=(160, 120),
        options={"bf": "0", "crf": "10", "profile": "high"},
    )
    path = tmp_path / "more.ts"
    path.write_bytes(large.read_bytes() + other_tracks(large, 9) + large.read_bytes())
    with av.open(str(path)) as container:
        assert len(container.streams) == 1, "FFmpeg looks at the beginning and the end"
    with opened(path) as source:
        assert sum(isinstance(each, Picture) for each in source) >= 3 * FRAMES - 3


def test_junk_between_packets_is_passed_over(clip: Path, tmp_path: Path) -> None:
    path, data = tmp_path / "junk.ts", clip.read_bytes()
    path.write_bytes(data + b"\x47\x1f\xff\x10" * 20_000 + data + bytes(500_000) + data)
    assert set(numbers(path)) == set(range(FRAMES))
    assert len(numbers(path)) >= 3 * FRAMES - 6


def test_junk_alone_comes_to_an_end(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "junk.ts"
    path.write_bytes(clip.read_bytes() + b"\x47\x1f\xff\x10" * 3_000_000)
    begun = time.monotonic()
    assert numbers(path)[: FRAMES - 1] == list(range(FRAMES - 1))
    assert time.monotonic() - begun < 30


def test_a_live_stream_whose_tracks_are_numbered_anew_is_followed(clip: Path) -> None:
    pieces = itertools.chain(parts(clip.read_bytes()), itertools.cycle(parts(other_tracks(clip))))
    with sent(pieces, 0.01) as url, opened(url, stall_timeout=3) as source:
        pictures = (each for each in source if isinstance(each, Picture))
        found = [read_number(each.image) for each in itertools.islice(pictures, 2 * FRAMES)]
    assert found.count(FRAMES // 2) == 2


def test_where_only_other_tracks_go_on_that_is_a_time_out(tmp_path: Path) -> None:
    """FFmpeg reads them, and PyAV passes them over, for as long as they come."""
    video = make_clip(tmp_path / "video.flv", frames=FRAMES, options={"bf": "0"}).read_bytes()
    sound = make_sound(tmp_path / "sound.flv", seconds=60).read_bytes()[13:]  # without the file's header
    with (
        sent([*parts(video), *parts(sound, 1000)], 0.02) as url,
        opened(url, stall_timeout=1, open_timeout=3) as source,
        pytest.raises(SourceReadError, match="data comes, but nothing of its tracks within 1 s") as caught,
    ):
        for _ in source:
            pass
    assert caught.value.cause == "timeout"
