"""Files through FFmpeg: real clips of many codecs, whole and broken."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import threading
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.codec.context import CodecContext
from av.video.frame import VideoFrame

from pipeline.config import StreamConfig
from pipeline.cores import usable_cores
from pipeline.errors import SourceOpenError, SourceReadError
from pipeline.sources import Picture, Source, encode_number, open_source, parse_source, read_number
from pipeline.sources.orient import from_display_matrix
from pipeline.sources.threads import threads_of_file
from tests.clips import make_clip, make_sound, need_encoder

FASTSTART = {"movflags": "+faststart"}


def opened(path: Path | str, stop: threading.Event | None = None, **stream) -> Source:
    config = StreamConfig(source=str(path), **stream)
    return open_source(parse_source(str(path)), config, stop or threading.Event())


def numbers(path: Path) -> list[int]:
    with opened(path) as source:
        return [read_number(picture.image) for picture in source]


def test_threads_of_video_decode_are_chosen_and_all_pictures_come(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=30)
    for threads in (1, 3):
        with opened(path, decode_threads=threads) as source:
            seen = [read_number(picture.image) for picture in source if isinstance(picture, Picture)]
            assert source._video.codec_context.thread_count == threads  # type: ignore[attr-defined]
        assert seen == list(range(30))


@pytest.mark.parametrize(
    ("codec", "size", "cores", "threads"),
    [
        ("h264", (1920, 1080), 1, 1),
        ("h264", (1920, 1088), 2, 1),
        ("h264", (1280, 720), 3, 2),
        ("h264", (1080, 1920), 16, 8),
        ("h264", (2560, 1440), 2, 0),
        ("h264", (0, 0), 2, 0),
        ("hevc", (1920, 1080), 2, 0),
    ],
)
def test_a_light_video_has_half_of_the_cores(
    codec: str, size: tuple[int, int], cores: int, threads: int
) -> None:
    context = av.VideoCodecContext.create(codec, "r")
    context.width, context.height = size
    assert threads_of_file(context, cores) == threads


def test_a_light_file_is_decoded_by_so_many(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=30)
    with opened(path) as source:
        context = source._video.codec_context  # type: ignore[attr-defined]
        assert context.thread_count == threads_of_file(context, usable_cores()) == -(-usable_cores() // 2)


def until_error(source: Source) -> tuple[list[Picture], SourceReadError]:
    """What came before the error that must come, and the error."""
    pictures: list[Picture] = []
    with source, pytest.raises(SourceReadError) as caught:
        pictures.extend(source)
    return pictures, caught.value


def overwrite(path: Path, *packets: int) -> Path:
    """Fill the ``packets`` of a clip with ones, where they stand in the file."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for number in packets:
        at, size = places[number]
        data[at : at + size] = b"\xff" * size
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("libx264", "mp4"),
        ("libx264", "mkv"),
        ("libx264", "ts"),
        ("libx264", "h264"),
        ("libx265", "mp4"),
        ("mpeg4", "avi"),
        ("mjpeg", "avi"),
        ("libvpx-vp9", "webm"),
        ("libsvtav1", "mkv"),
    ],
)
def test_every_picture_of_every_codec_in_order(tmp_path, codec, suffix):
    clip = make_clip(tmp_path / f"clip.{suffix}", codec=need_encoder(codec), frames=25)
    assert numbers(clip) == list(range(25))


def test_b_frames_come_in_order_of_presentation(tmp_path):
    slow = {"preset": "fast", "tune": "animation", "bf": "3"}
    clip = make_clip(tmp_path / "b.mp4", frames=40, size=(128, 96), options=slow)
    with opened(clip) as source:
        pictures = list(source)
    assert [read_number(p.image) for p in pictures] == list(range(40))
    times = [p.pts * p.time_base for p in pictures]
    assert times == sorted(times)


def test_a_picture_is_bgr_contiguous_timed_and_the_receivers_own(tmp_path):
    with opened(make_clip(tmp_path / "a.mp4", frames=12)) as source:
        assert (source.live, source.frame_count) == (False, 12)
        assert source.description == "h264, 64x48, 25 fps, mov file"
        pictures = list(source)
        assert source.corrupt_packets == 0
    for number, picture in enumerate(pictures):
        # Read after all are decoded: none was written over.
        assert read_number(picture.image) == number
        assert picture.image.dtype == np.uint8 and picture.image.shape == (48, 64, 3)
        assert picture.image.flags.c_contiguous
        assert picture.pts * picture.time_base == Fraction(number, 25)
        assert 0 < picture.decode_seconds < 1


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_blue_is_the_first_channel(tmp_path, codec):
    colour = np.full((48, 64, 3), (200, 100, 30), np.uint8)
    with opened(make_clip(tmp_path / "c.mkv", codec=codec, images=[colour] * 3)) as source:
        image = next(iter(source)).image
    assert np.abs(image.astype(int) - colour).max() <= 8


@pytest.mark.parametrize("size", [(65, 49), (50, 41), (127, 63), (66, 50)])
def test_odd_sizes(tmp_path, size):
    clip = make_clip(tmp_path / "odd.mkv", size=size, codec="libx264", pix_fmt="yuv444p", frames=5)
    with opened(clip) as source:
        pictures = list(source)
    assert [read_number(p.image) for p in pictures] == list(range(5))
    assert all(p.image.shape == (size[1], size[0], 3) and p.image.flags.c_contiguous for p in pictures)


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv420p10le", "yuvj420p"])
def test_other_pixel_formats(tmp_path, pix_fmt):
    assert numbers(make_clip(tmp_path / "p.mkv", pix_fmt=pix_fmt, frames=3)) == [0, 1, 2]


def test_pictures_stored_as_bgr(tmp_path):
    clip = make_clip(tmp_path / "raw.avi", codec="rawvideo", pix_fmt="bgr24", frames=4, size=(64, 48))
    assert numbers(clip) == [0, 1, 2, 3]


def test_variable_frame_rate_keeps_its_times(tmp_path):
    pts = [0, 1, 4, 9, 16, 17, 40]
    clip = make_clip(tmp_path / "vfr.mkv", frames=7, pts=pts)
    with opened(clip) as source:
        seconds = [float(p.pts * p.time_base) for p in source]
    # Matroska keeps milliseconds.
    assert seconds == pytest.approx([n / 25 for n in pts], abs=6e-4)


def test_missing_times_are_none(tmp_path):
    with opened(make_clip(tmp_path / "raw.h264", frames=3)) as source:
        assert [p.pts for p in source] == [None] * 3


@pytest.mark.parametrize("degrees", [90, 180, 270, -90])
@pytest.mark.parametrize("hflip", [False, True])
def test_display_rotation_is_undone(tmp_path, degrees, hflip):
    # set_display_rotation(d) asks the player to turn by d counter-clockwise, then to mirror. So what
    # is stored is an upright picture with both undone, in the other order.
    def stored(number: int) -> np.ndarray:
        upright = encode_number(number, 96, 128)
        mirrored = upright[:, ::-1] if hflip else upright
        return np.ascontiguousarray(np.rot90(mirrored, -degrees // 90))

    images = [stored(n) for n in range(4)]
    height, width = images[0].shape[:2]
    clip = make_clip(tmp_path / "r.mp4", images=images, size=(width, height), rotation=degrees, hflip=hflip)
    with opened(clip) as source:
        pictures = list(source)
    assert [p.pixels.shape for p in pictures] == [p.image.shape for p in pictures] == [(96, 128, 3)] * 4
    assert [read_number(p.image) for p in pictures] == list(range(4))
    assert all(p.image.flags.c_contiguous for p in pictures)


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (-1, 0, 0, 1), (0, 1, -1, 0), (0, -1, -1, 0), (0, 1, 1, 0)])
def test_orientation_follows_the_formula_point_by_point(matrix):
    a, b, c, d = matrix
    fixed = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 14], np.int64) * 65536
    fixed[8] = 1 << 30
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3)).astype(np.uint8)
    turned = from_display_matrix(fixed.astype(np.int32).tobytes()).apply(image)
    # (x, y) is shown at (a·x + c·y, b·x + d·y), shifted so that all is positive.
    shown = {(a * x + c * y, b * x + d * y): image[y, x] for y in range(3) for x in range(5)}
    left, top = min(x for x, _ in shown), min(y for _, y in shown)
    for (x, y), pixel in shown.items():
        assert np.array_equal(turned[y - top, x - left], pixel)


def test_a_slanted_display_matrix_is_left_alone():
    half = round(65536 * 0.7071)
    assert (
        from_display_matrix(np.array([half, half, 0, -half, half, 0, 0, 0, 1 << 30], np.int32).tobytes())
        is None
    )


def test_names_with_spaces_letters_and_percent_signs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make_clip(tmp_path / "made.mp4", frames=2)
    for name in ("ein Film.mp4", "Füße 映画.mp4", "100%d%03d.mp4", "a:b.mp4", "rtsp:x.mp4", "#1?.mp4"):
        shutil.copy(made, name)
        assert numbers(tmp_path / name) == [0, 1]
        assert numbers(Path(name)) == [0, 1]


def test_stop_ends_at_the_next_picture_and_closes(tmp_path):
    stop = threading.Event()
    taken = []
    source = opened(make_clip(tmp_path / "s.mp4", frames=50), stop)
    for picture in source:
        taken.append(picture)
        if len(taken) == 3:
            stop.set()
    assert len(taken) == 3
    with pytest.raises(AssertionError, match="not open"):
        source._container.duration  # noqa: B018


def test_leaving_a_loop_early_and_closing_twice(tmp_path):
    source = opened(make_clip(tmp_path / "s.mp4", frames=50))
    for picture in source:
        assert read_number(picture.image) == 0
        break
    source.close()
    source.close()
    with pytest.raises(RuntimeError, match="only once"):
        iter(source)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("audio_first", [False, True])
def test_sound_beside_the_picture_is_ignored(tmp_path, suffix, audio_first):
    # B-frames and frame threads: the last pictures come out only when the decoder is flushed.
    slow = {"preset": "fast", "tune": "animation", "bf": "3"}
    clip = make_clip(
        tmp_path / f"a.{suffix}", frames=25, size=(128, 96), audio=True, audio_first=audio_first, options=slow
    )
    with opened(clip) as source:
        assert [read_number(p.image) for p in source] == list(range(25))
        assert source.corrupt_packets == 0


@pytest.mark.parametrize("name", ["mp4", "avi", "mkv", "mkv+sound", "mp4+sound"])
def test_a_file_cut_short_gives_its_pictures_and_then_says_so(tmp_path, name):
    suffix, _, sound = name.partition("+")
    codec = {"mp4": "libx264", "avi": "mjpeg", "mkv": "libx264"}[suffix]
    clip = make_clip(
        tmp_path / f"cut.{suffix}",
        codec=codec,
        frames=50,
        audio=bool(sound),
        container_options=FASTSTART if suffix == "mp4" else None,
    )
    pictures, error = until_error(opened(cut(clip, 0.6)))
    got = [read_number(p.image) for p in pictures]
    assert 10 <= len(got) <= 40
    assert got == list(range(len(got)))
    assert error.cause == "ended"
    assert "ends early" in str(error) and f"{len(got)} pictures" in str(error)


@pytest.mark.parametrize("share", [0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_the_half_packet_where_a_file_was_cut_gives_no_smeared_picture(tmp_path, share):
    slow = {"preset": "fast", "tune": "animation", "bf": "2"}
    clip = make_clip(
        tmp_path / "cut.mp4", frames=60, size=(320, 240), options=slow, container_options=FASTSTART
    )
    pictures, _ = until_error(opened(cut(clip, share)))
    got = [read_number(p.image) for p in pictures]
    assert got == sorted(set(got)) and len(got) >= 5


def test_a_cut_file_that_is_stopped_before_its_end_is_no_error(tmp_path):
    clip = cut(make_clip(tmp_path / "cut.mp4", frames=50, container_options=FASTSTART), 0.6)
    stop = threading.Event()
    with opened(clip, stop) as source:
        come = 0
        for _ in source:
            come += 1
            stop.set()
    assert 1 <= come < 30, "it ends before it comes to the cut"


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", "mp4"), ("mpeg4", "avi"), ("mjpeg", "avi"), ("libx265", "mp4")]
)
def test_a_damaged_packet_is_skipped_and_counted(tmp_path, codec, suffix):
    clip = make_clip(tmp_path / f"d.{suffix}", codec=codec, frames=40, gop=10)
    with opened(overwrite(clip, 15, 16)) as source:
        pictures = list(source)
        assert source.corrupt_packets == 2
    times = [round(p.pts * p.time_base * 25) for p in pictures]
    # FFmpeg may make a picture of nothing; then it says so.
    assert all(p.damaged for t, p in zip(times, pictures, strict=True) if t in (15, 16))
    assert codec != "mjpeg" or not any(p.damaged for p in pictures)  # of which each is a key frame
    # Before the damage and from the next key frame on, all is there and as it was.
    sound = {t: read_number(p.image) for t, p in zip(times, pictures, strict=True) if not 15 <= t < 20}
    assert sound == {n: n for n in (*range(15), *range(20, 40))}


def test_a_file_without_one_good_picture_is_an_error(tmp_path):
    clip = make_clip(tmp_path / "d.avi", codec="mjpeg", frames=5)
    pictures, error = until_error(opened(overwrite(clip, 0, 1, 2, 3, 4)))
    assert pictures == []
    assert error.cause == "format" and "no picture in it could be decoded (5 damaged" in str(error)


def not_video(folder: Path, name: str) -> Path:
    path = folder / name
    if name == "sound.m4a":
        return make_sound(path)
    if name == "no-moov.mp4":
        return cut(make_clip(path), 0.7)
    path.write_bytes(
        {
            "empty.mp4": b"",
            "text.mp4": b"hello, this is text\n" * 50,
            "text.txt": b"hello, this is text\n" * 50,
            "noise.mp4": np.random.default_rng(0).bytes(5000),
            "zeros.avi": bytes(5000),
        }[name]
    )
    return path


@pytest.mark.parametrize(
    "name", ["empty.mp4", "text.mp4", "text.txt", "noise.mp4", "zeros.avi", "sound.m4a", "no-moov.mp4"]
)
def test_what_is_no_video_cannot_be_opened(tmp_path, name, capfd):
    path = not_video(tmp_path, name)
    capfd.readouterr()
    with pytest.raises(SourceOpenError, match=f"cannot open .*{name}") as caught:
        opened(path)
    assert caught.value.cause == "format" and "\n" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert capfd.readouterr().err == ""


def test_a_song_with_a_cover_is_no_video(tmp_path):
    path = tmp_path / "song.mp3"
    cover = cv2.imencode(".png", encode_number(1, 48, 64))[1].tobytes()
    # ID3v2.3 tag with one attached picture, before the MPEG audio.
    body = b"\0image/png\0\x03\0" + cover
    frame = b"APIC" + len(body).to_bytes(4, "big") + b"\0\0" + body
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    make_sound(tmp_path / "plain.mp3", codec=need_encoder("libmp3lame"))
    path.write_bytes(b"ID3\x03\0\0" + size + frame + (tmp_path / "plain.mp3").read_bytes())
    with av.open(str(path)) as container:
        assert container.streams.video, "the cover should look like a video stream"
    with pytest.raises(SourceOpenError, match="no video stream"):
        opened(path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    clip = make_clip(tmp_path / "p.mp4", frames=2)
    clip.chmod(0)
    with pytest.raises(SourceOpenError, match="permission denied") as caught:
        opened(clip)
    assert caught.value.cause == "permission"


def test_a_file_that_vanished_after_parsing(tmp_path):
    clip = make_clip(tmp_path / "v.mp4", frames=2)
    spec = parse_source(str(clip))
    clip.unlink()
    with pytest.raises(SourceOpenError, match="no such file") as caught:
        open_source(spec, StreamConfig(source="x"), threading.Event())
    assert caught.value.cause == "not_found"


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_without_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceOpenError, match="nobody writes to this pipe") as caught:
        opened(tmp_path / "pipe", open_timeout=0.3)
    assert caught.value.cause == "timeout"
    stop = threading.Event()
    stop.set()
    with pytest.raises(SourceOpenError, match="it was stopped before there was a picture") as caught:
        opened(tmp_path / "pipe", stop)
    assert caught.value.cause == "stopped"


def test_a_pipe_whose_writer_falls_silent_before_there_is_a_picture(tmp_path):
    clip = make_clip(tmp_path / "clip.mkv", frames=12)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(tmp_path / "pipe", os.O_WRONLY)
    try:
        os.write(writer, clip.read_bytes()[:100])
        with pytest.raises(SourceOpenError, match="wrote too little for a picture in time") as caught:
            opened(tmp_path / "pipe", open_timeout=0.3)
        assert caught.value.cause == "timeout"
    finally:
        os.close(writer)
        os.close(reader)


def test_an_mp4_whose_index_comes_last_cannot_be_piped_and_the_remedy_is_said(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 240, 320, 3), np.uint8)
    clip = make_clip(tmp_path / "clip.mp4", frames=30, size=(320, 240), images=noise)
    assert clip.stat().st_size > 500_000  # of a small one FFmpeg still has the beginning
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with contextlib.suppress(BrokenPipeError):
            (tmp_path / "pipe").write_bytes(clip.read_bytes())

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(SourceReadError, match="index first or in fragments: write it with") as caught:
        numbers(tmp_path / "pipe")
    writer.join()
    assert caught.value.cause == "format"


def test_a_writer_that_trickles_does_not_hold_up_opening(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    over = threading.Event()

    def trickle() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe, contextlib.suppress(BrokenPipeError):
            while not over.wait(0.05):
                pipe.write(b"\0")

    writer = threading.Thread(target=trickle)
    writer.start()
    try:
        with pytest.raises(SourceOpenError, match="wrote too little for a picture in time"):
            opened(tmp_path / "pipe", open_timeout=0.5)
    finally:
        over.set()
        writer.join()


def test_a_writer_that_pauses_between_pictures_is_waited_for(tmp_path):
    clip = make_clip(tmp_path / "clip.ts", frames=60).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    got, go_on = [], threading.Event()

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            pipe.write(clip[: len(clip) // 2])
            go_on.wait(20)
            pipe.write(clip[len(clip) // 2 :])

    writer = threading.Thread(target=write)
    writer.start()
    with opened(tmp_path / "pipe", open_timeout=0.3) as source:
        for picture in source:
            got.append(read_number(picture.image))
            if len(got) == 1:  # well beyond the time that opening may take
                threading.Timer(0.6, go_on.set).start()
    writer.join()
    assert got == list(range(60))


def test_a_pipe_is_read_as_it_is_written(tmp_path):
    clip = make_clip(tmp_path / "clip.mkv", frames=12)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(clip.read_bytes()))
    writer.start()
    assert numbers(tmp_path / "pipe") == list(range(12))
    writer.join()


def test_what_was_written_before_anybody_looked_is_not_lost(tmp_path):
    clip = make_clip(tmp_path / "clip.mkv", frames=12)
    os.mkfifo(tmp_path / "pipe")
    # Small enough for the pipe itself: its writer is gone before the source is opened.
    keep = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert len(clip.read_bytes()) < 60_000
    (tmp_path / "pipe").write_bytes(clip.read_bytes())
    try:
        assert numbers(tmp_path / "pipe") == list(range(12))
    finally:
        os.close(keep)


def test_size_may_change_in_mid_stream(tmp_path):
    small = make_clip(tmp_path / "small.h264", frames=5, size=(64, 48)).read_bytes()
    large = make_clip(tmp_path / "large.h264", frames=5, size=(128, 96)).read_bytes()
    (tmp_path / "both.h264").write_bytes(small + large)
    with opened(tmp_path / "both.h264") as source:
        pictures = list(source)
    assert [p.image.shape[:2] for p in pictures] == [(48, 64)] * 5 + [(96, 128)] * 5
    assert [read_number(p.image) for p in pictures] == [*range(5), *range(5)]


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "frames", "shape"),
    [
        ("bikes.mp4", 250, (272, 640, 3)),
        ("vtest.avi", 795, (576, 768, 3)),
        ("o4n_people.mp4", 460, (450, 800, 3)),
    ],
)
def test_real_clips(assets, name, frames, shape):
    count = 0
    with opened(assets / "videos" / name) as source:
        for picture in source:
            assert picture.image.shape == shape
            count += 1
        assert source.corrupt_packets == 0
    assert count == frames


def test_a_source_that_is_closed_leaves_nothing_to_the_collector(tmp_path):
    """Or each loop and each reconnection would keep pictures until that comes by: 6 MB of 1080p each."""
    clip = make_clip(tmp_path / "c.mp4", frames=10)

    def frames() -> int:
        return sum(isinstance(each, VideoFrame | CodecContext) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = frames()
        with opened(clip) as source:
            assert sum(1 for picture in source if picture.image.size) == 10
        del source
        assert frames() == before
    finally:
        gc.enable()
