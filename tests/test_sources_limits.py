"""What a hostile source asks for, it does not get: other addresses, pictures that fill memory."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipeline import Pipeline
from pipeline.config import StreamConfig, make_config
from pipeline.errors import SourceOpenError, SourceReadError
from pipeline.sources import Picture, Source, Unreadable, imagefile, open_source, parse_source
from pipeline.sources.address import SAMPLE
from pipeline.sources.imagefile import decode_picture
from pipeline.sources.picturesize import picture_size
from tests.servers import http_server


def opened(address: str, **options: object) -> Source:
    config = make_config({"streams": [{"source": address, "open_timeout": 5, **options}]})
    return open_source(parse_source(address), config.streams[0], threading.Event())


def playlist(segment: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10.0,\n{segment}\n#EXT-X-ENDLIST\n".encode()


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    path = tmp_path / "private.ts"
    with av.open(str(SAMPLE)) as clip, av.open(str(path), "w", format="mpegts") as out:
        video = clip.streams.video[0]
        copy = out.add_stream_from_template(video)
        for packet in clip.demux(video):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    return path


@contextlib.contextmanager
def saying(data: bytes) -> Iterator[int]:
    """A TCP server that sends ``data`` to each client and hangs up; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def test_a_playlist_over_tcp_reads_no_file_of_ours(segment: Path) -> None:
    with saying(playlist(f"file://{segment}")) as port:
        with av.open(f"tcp://127.0.0.1:{port}/x.m3u8", timeout=5) as container:
            assert container.streams.video  # what FFmpeg by itself would do
        with pytest.raises(SourceOpenError):
            opened(f"tcp://127.0.0.1:{port}/x.m3u8")


def test_a_playlist_over_http_reads_no_file_of_ours_and_does_read_its_own(segment: Path) -> None:
    folder = segment.parent
    (folder / "theirs.m3u8").write_bytes(playlist(segment.name))
    (folder / "ours.m3u8").write_bytes(playlist(f"file://{segment}"))
    with http_server(folder) as server:
        with opened(f"{server.url}/theirs.m3u8") as source:
            assert isinstance(next(iter(source)), Picture)
        with pytest.raises(SourceOpenError):
            opened(f"{server.url}/ours.m3u8")


def test_a_playlist_in_a_file_or_a_pipe_sends_us_nowhere(tmp_path: Path, segment: Path) -> None:
    with http_server(segment.parent) as server:
        text = playlist(f"{server.url}/{segment.name}")
        (tmp_path / "list.m3u8").write_bytes(text)
        with pytest.raises(SourceOpenError):
            opened(str(tmp_path / "list.m3u8"))
        pipe = tmp_path / "pipe.m3u8"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(text,))
        writer.start()
        with pytest.raises(SourceOpenError):
            opened(str(pipe))
        writer.join(5)


def clip(path: Path, sizes: list[tuple[int, int]], codec: str = "libx264", container: str = "h264") -> Path:
    """Ten pictures of each size, one clip after the other."""
    parts = []
    for width, height in sizes:
        part = path.with_suffix(".part")
        with av.open(str(part), "w", format=container) as out:
            video = out.add_stream(codec, rate=25)
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            for number in range(10):
                picture = np.full((height, width, 3), number * 20, np.uint8)
                for packet in video.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")):
                    out.mux(packet)
            for packet in video.encode():
                out.mux(packet)
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    return path


def test_eight_k_passes_by_default() -> None:
    assert StreamConfig(source="a").max_picture >= 7680 * 4352


@pytest.mark.parametrize("container", ["mp4", "h264"])
def test_a_video_that_is_too_large_is_refused_at_once(tmp_path: Path, container: str) -> None:
    path = clip(tmp_path / f"c.{container}", [(640, 480)], container=container)
    with (
        pytest.raises(
            (SourceOpenError, SourceReadError), match="640x480 has more pixels than max_picture"
        ) as raised,
        opened(str(path), max_picture=640 * 480 - 1) as source,
    ):
        next(iter(source))
    assert raised.value.cause == "format"
    with opened(str(path), max_picture=640 * 480) as source:
        assert isinstance(next(iter(source)), Picture)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_picture_that_grows_in_mid_stream_ends_it_with_the_reason(tmp_path: Path, threads: int) -> None:
    path = clip(tmp_path / "c.h264", [(64, 64), (640, 480)])
    with opened(str(path), max_picture=100_000, decode_threads=threads) as source:
        seen = []
        with pytest.raises(SourceReadError, match="640x480 has more pixels than max_picture") as raised:
            seen.extend(item.image.shape for item in source if isinstance(item, Picture))
    assert set(seen) == {(64, 64, 3)}
    assert raised.value.cause == "format"


def test_a_jpeg_stream_says_its_size_in_each_picture(tmp_path: Path) -> None:
    large = cv2.imencode(".jpg", np.zeros((600, 800, 3), np.uint8))[1].tobytes()
    path = tmp_path / "c.mjpeg"
    path.write_bytes(large * 5)
    wanted = pytest.raises((SourceOpenError, SourceReadError), match="800x600 has more pixels")
    with wanted, opened(str(path), max_picture=100_000) as source:
        next(iter(source))


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_tracks_without_number_are_refused(tmp_path: Path, container: str) -> None:
    def made(tracks: int) -> str:
        path = tmp_path / f"{tracks}.{container}"
        with av.open(str(path), "w", format=container) as out:
            videos = [out.add_stream("mpeg2video", rate=25) for _ in range(tracks)]
            picture = av.VideoFrame(32, 32, "yuv420p")
            for video in videos:
                video.width = video.height = 32
                out.mux(video.encode(picture))
            for video in videos:
                out.mux(video.encode())
        return str(path)

    with opened(made(90)) as source:
        assert next(iter(source))
    with pytest.raises(SourceOpenError, match="more than 100 tracks") as raised:
        opened(made(101))
    assert raised.value.cause == "format"


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def table_bomb(samples: int) -> bytes:
    """An MP4 of a kilobyte that claims so many samples of one byte each, for which FFmpeg makes an index."""

    def words(*numbers: int) -> bytes:
        return struct.pack(f">{len(numbers)}I", *numbers)

    matrix = words(0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    entry = bytes(6) + b"\0\1" + bytes(16) + struct.pack(">HH", 320, 240) + words(0x480000, 0x480000, 0)
    entry += b"\0\1" + bytes(32) + b"\0\x18\xff\xff"
    table = box(
        b"stbl",
        box(b"stsd", words(0, 1), box(b"mp4v", entry)),
        box(b"stts", words(0, 1, samples, 1)),
        box(b"stsc", words(0, 1, 1, samples, 1)),
        box(b"stsz", words(0, 1, samples)),
        box(b"stco", words(0, 1, 40)),
    )
    handler = box(b"hdlr", words(0, 0), b"vide", bytes(13))
    media = box(b"mdia", box(b"mdhd", words(0, 0, 0, 25, 100, 0)), handler, box(b"minf", table))
    header = box(b"tkhd", words(0, 0, 0, 1, 0, 100), bytes(16), matrix, words(320 << 16, 240 << 16))
    movie = box(b"mvhd", words(0, 0, 0, 25, 100, 0x10000), b"\1\0", bytes(10), matrix, bytes(24), words(2))
    start = box(b"ftyp", b"isom", words(512), b"isom")
    return start + box(b"moov", movie, box(b"trak", header, media)) + box(b"mdat", bytes(1000))


@pytest.mark.skipif(sys.platform != "linux", reason="sources are isolated on Linux alone")
def test_an_isolated_source_gets_no_more_memory_than_its_pictures_need(tmp_path: Path) -> None:
    path = tmp_path / "bomb.mp4"
    path.write_bytes(table_bomb(40_000_000))  # of 24 bytes, in one piece
    script = (
        "import sys, threading, resource\n"
        "from pipeline.config import make_stream\n"
        "from pipeline.sources import open_source, parse_source\n"
        "stream = make_stream({'source': sys.argv[1], 'isolate': True, 'max_picture': 320 * 240})\n"
        "try:\n"
        "    list(open_source(parse_source(sys.argv[1]), stream, threading.Event()))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, check=True)
    kind, most = done.stdout.decode().split()
    assert kind == "SourceReadError"
    assert int(most) < 512 << 10  # KiB


@pytest.mark.skipif(sys.platform != "linux", reason="sources are isolated on Linux alone")
def test_an_isolated_source_has_memory_for_all_its_threads(tmp_path: Path) -> None:
    path = clip(tmp_path / "c.mp4", [(640, 360)])
    with opened(str(path), isolate=True, decode_threads=64, max_picture=640 * 368) as source:
        assert len([item for item in source if isinstance(item, Picture)]) > 0
        assert source.corrupt_packets == 0


def test_no_memory_is_taken_for_what_is_refused(tmp_path: Path) -> None:
    """A picture of 100 million pixels in a file of a megabyte."""
    path = tmp_path / "bomb.png"
    path.write_bytes(cv2.imencode(".png", np.zeros((10_000, 10_000), np.uint8))[1].tobytes())
    script = (
        "import sys, threading, resource\n"
        "from pipeline.config import make_stream\n"
        "from pipeline.sources import open_source, parse_source\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    stream = make_stream({'source': sys.argv[1]})\n"
        "    open_source(parse_source(sys.argv[1]), stream, threading.Event())\n"
        "except OSError as error:\n"
        "    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    said, grown = done.stdout.splitlines()
    assert "10000x10000 has more pixels than max_picture allows" in said
    assert int(grown) < 50_000  # kilobytes; the picture has 300,000


SUFFIXES = [".jpg", ".png", ".bmp", ".webp", ".tif"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sizes_of_picture_files_against_the_decoder(suffix: str) -> None:
    for height, width in ((1, 1), (7, 300), (513, 64)):
        data = cv2.imencode(suffix, np.zeros((height, width, 3), np.uint8))[1].tobytes()
        assert picture_size(data) == (width, height)
        for cut in range(0, min(len(data), 200), 7):
            picture_size(data[:cut])  # which is an answer or None, and no exception
    lossless = cv2.imencode(".webp", np.zeros((5, 9, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])[1]
    assert picture_size(lossless.tobytes()) == (9, 5)


def test_sizes_of_rare_headers() -> None:
    assert picture_size(b"BM" + bytes(12) + struct.pack("<IHH", 12, 3, 4)) == (3, 4)
    assert picture_size(b"BM" + bytes(12) + struct.pack("<Iii", 40, 3, -4)) == (3, 4)
    big = b"MM\0+" + struct.pack(">HHQ", 8, 0, 16) + struct.pack(">Q", 2)
    big += struct.pack(">HHQIxxxx", 256, 4, 1, 70000) + struct.pack(">HHQHxxxxxx", 257, 3, 1, 9)
    assert picture_size(big) == (70000, 9)
    assert picture_size(b"GIF89a" + bytes(20)) is None


def _tiff_of(*entries: tuple[int, int]) -> bytes:
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_header(width: int, height: int) -> bytes:
    return _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def _encoded(suffix: str, width: int, height: int) -> bytes:
    return cv2.imencode(suffix, np.zeros((height, width, 3), np.uint8))[1].tobytes()


def _riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


_CANVAS = b"VP8X" + struct.pack("<IIHBHB", 10, 0, 6, 0, 4, 0)  # 7x5
_FRAME_HEADER = bytes(6) + struct.pack("<HBHB", 6, 0, 4, 0) + bytes(4)
_LARGE_WEBP = _encoded(".webp", 300, 200)[12:]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (_tiff_of((256, 300), (256, 7), (257, 200), (257, 5)), None),
        (_tiff_of((256, 7), (257, 5), (257, 200)), None),
        (_tiff_of((256, 7), (257, 5), (322, 300), (323, 200)), (300, 200)),
        (_encoded(".jpg", 7, 5)[:-2] + _encoded(".jpg", 300, 200)[2:], (300, 200)),
        (b"\xff\xd8\xff\xd9" + _encoded(".jpg", 300, 200)[2:], (300, 200)),
        (_encoded(".jpg", 7, 5) + _encoded(".jpg", 300, 200), (7, 5)),  # a second picture, which nobody reads
        (_riff(_CANVAS + _LARGE_WEBP), (300, 200)),
        (_riff(_CANVAS + b"ABCD" + struct.pack("<I", 3) + bytes(4) + _LARGE_WEBP), (300, 200)),
        (_riff(_CANVAS + b"ANMF" + struct.pack("<I", 999) + _FRAME_HEADER + _LARGE_WEBP), (300, 200)),
        (b"\x89PNG\r\n\x1a\n" + _png_chunk(b"eXIf", bytes(13)) + _png_header(300, 200), None),
    ],
)
def test_a_size_that_is_named_twice_is_the_largest_or_none(data: bytes, size: tuple[int, int] | None) -> None:
    assert picture_size(data) == size


def test_a_png_whose_header_stands_twice_is_refused() -> None:
    png = _encoded(".png", 7, 5)
    for odd in (png[:8] + _png_header(7, 5) + png[8:], png[:33] + _png_header(300, 200) + png[33:]):
        with pytest.raises(ValueError, match="its header stands twice"):
            decode_picture(odd)
    with pytest.raises(ValueError, match="is not the first"):
        decode_picture(png[:8] + _png_chunk(b"PLTE", bytes(3)) + png[8:])


def test_what_was_decoded_is_held_against_the_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a reader take another size than the one that was found."""
    monkeypatch.setattr(imagefile, "picture_size", lambda _: (7, 5))
    with pytest.raises(ValueError, match="30x20 has more pixels"):
        decode_picture(_encoded(".bmp", 30, 20), 599)
    assert decode_picture(_encoded(".bmp", 30, 20), 600).shape == (20, 30, 3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_picture_that_is_too_large_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(cv2.imencode(suffix, np.zeros((30, 40, 3), np.uint8))[1].tobytes())
    with pytest.raises(SourceOpenError, match="40x30 has more pixels"):
        opened(str(path), max_picture=1199)
    (tmp_path / f"b{suffix}").write_bytes(cv2.imencode(suffix, np.zeros((3, 4, 3), np.uint8))[1].tobytes())
    with opened(str(tmp_path), max_picture=1199) as source:
        large, small = list(source)
    assert isinstance(large, Unreadable)
    assert isinstance(small, Picture)


def test_the_line_names_the_stream_that_asks_too_much(tmp_path: Path, cheap_model: str) -> None:
    path = clip(tmp_path / "c.h264", [(64, 64), (640, 480)])
    streams = [{"source": str(path), "name": "greedy", "max_picture": 100_000}]
    streams.append({"source": "synthetic:64x48?frames=20", "name": "other"})
    with Pipeline(make_config({"streams": streams, "model": cheap_model})) as line:
        line.run()
    assert line.accounts.streams["greedy"].ending == "format"
    assert "max_picture" in str(line.accounts.streams["greedy"].error)
    assert line.accounts.streams["other"].counts().emitted == 20
