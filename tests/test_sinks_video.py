"""Annotated videos: real files, read back with two independent decoders."""

from __future__ import annotations

import json
import logging
import sys
import threading
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from benchmarks.signals import decoded as decodable
from benchmarks.signals import in_whole_fragments
from pipeline.errors import SinkOpenError, SinkWriteError
from pipeline.sinks import VideoFile, VideoFiles
from pipeline.sinks.index import index_to_front
from pipeline.sinks.part import PartFile
from tests.test_sinks_common import in_child, make_result

KINDS = [".mp4", ".mov", ".mkv", ".webm", ".avi"]


def grey(level: int, height: int = 48, width: int = 64):
    return np.full((height, width, 3), level, np.uint8)


def level_of(number: int) -> int:
    """A grey level for each of 12 frames, far enough apart for a lossy codec."""
    return 30 + 17 * number


def write(path, count=12, *, step=40, **options):
    with VideoFile(path, **options) as video:
        for n in range(count):
            video.write(make_result(grey(level_of(n)), seq=n, pts=1000 + n * step), 0)
    return path


def decode(path):
    """Pictures (BGR), times in seconds, and the video stream's codec and pixel format."""
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        frames = list(source.decode(stream))
        pictures = [frame.to_ndarray(format="bgr24") for frame in frames]
        about = (stream.codec_context.name, stream.codec_context.pix_fmt)
        return pictures, [float(frame.pts * frame.time_base) for frame in frames], about


def boxes_of(path) -> list[bytes]:
    """Types of the top-level boxes of an MP4 file."""
    data, kinds, at = path.read_bytes(), [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kinds.append(data[at + 4 : at + 8])
        at += size if size != 1 else int.from_bytes(data[at + 8 : at + 16], "big")
    return kinds


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_holds_every_frame_in_order_at_its_time(tmp_path, kind):
    path = write(tmp_path / f"out{kind}", fps=25)
    pictures, times, (codec, pix_fmt) = decode(path)
    assert (codec, pix_fmt) == ({".webm": "vp9", ".avi": "mpeg4"}.get(kind, "h264"), "yuv420p")
    assert [round((picture.mean() - 30) / 17) for picture in pictures] == list(range(12))
    assert times == pytest.approx([n * 0.04 for n in range(12)], abs=0.0006)
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name]


def test_a_second_decoder_reads_the_same(tmp_path):
    capture = cv2.VideoCapture(str(write(tmp_path / "out.mp4")))
    levels = []
    while (read := capture.read())[0]:
        levels.append(round((read[1].mean() - 30) / 17))
    capture.release()
    assert levels == list(range(12))


def test_an_mp4_has_its_index_in_front(tmp_path):
    kinds = boxes_of(write(tmp_path / "out.mp4"))
    assert kinds.index(b"moov") < kinds.index(b"mdat")


@pytest.mark.parametrize("kind", [".mp4", ".mkv", ".webm"])
def test_variable_frame_rate_and_gaps_stay(tmp_path, kind):
    pts = [500, 540, 620, 630, 1500, 1533, 61_000]
    with VideoFile(tmp_path / f"out{kind}") as video:
        for n, value in enumerate(pts):
            video.write(make_result(grey(level_of(n)), seq=n * 3, pts=value), 2)
    _, times, _ = decode(tmp_path / f"out{kind}")
    assert times == pytest.approx([(value - 500) / 1000 for value in pts], abs=0.0006)


def test_an_avi_rounds_times_to_its_rate(tmp_path):
    with VideoFile(tmp_path / "out.avi", fps=10) as video:
        for n, pts in enumerate([0, 104, 195, 1000]):
            video.write(make_result(grey(level_of(n)), seq=n, pts=pts), 0)
    _, times, _ = decode(tmp_path / "out.avi")
    assert times == pytest.approx([0, 0.1, 0.2, 1.0])


def test_pts_that_go_back_do_not_stop_the_recording(tmp_path):
    with VideoFile(tmp_path / "out.mp4") as video:
        for n, pts in enumerate([9000, 9040, 0, None, 80, 80, 70, 200]):
            video.write(make_result(grey(level_of(n)), seq=n, pts=pts, captured_at=n * 0.04), 0)
    pictures, times, _ = decode(tmp_path / "out.mp4")
    assert [round((picture.mean() - 30) / 17) for picture in pictures] == list(range(8))
    assert all(after > before for before, after in pairwise(times))


@pytest.mark.parametrize("kind", [".mp4", ".mkv"])
def test_a_single_frame_is_a_video_with_a_duration(tmp_path, kind):
    with av.open(str(write(tmp_path / f"out{kind}", 1, fps=25))) as source:
        assert source.duration is not None and source.duration / 1e6 == pytest.approx(0.04, abs=0.002)


@pytest.mark.parametrize("kind", [".mp4", ".mov"])
def test_the_last_frame_is_shown_as_long_as_the_one_before(tmp_path, kind):
    with av.open(str(write(tmp_path / f"out{kind}", 12, step=40, fps=25))) as source:
        assert source.duration is not None and source.duration / 1e6 == pytest.approx(12 * 0.04, abs=0.001)


@pytest.mark.parametrize("kind", [".mp4", ".mov"])
@pytest.mark.parametrize("distances", [(3000, 3000, 45), (1, 3601, 1, 3000, 1), (1, 1, 91, 1, 1, 3601, 1)])
def test_frames_that_lie_close_at_the_end_are_shown_too(tmp_path, kind, distances):
    """Cut short by a rounding, the file's edit list hid the last frames from every player."""
    path = tmp_path / f"out{kind}"
    times = [0, *accumulate(distances)]
    with VideoFile(path) as video:
        for n, pts in enumerate(times):
            video.write(make_result(grey(level_of(n)), seq=n, pts=pts, time_base=Fraction(1, 90_000)), 0)
    with av.open(str(path)) as source:
        assert [frame.pts for frame in source.decode(video=0)] == times


def test_boxes_are_drawn_on_a_copy(tmp_path):
    image = grey(128, 240, 320)
    before = image.copy()
    with VideoFile(tmp_path / "out.mp4") as video:
        for n in range(3):
            video.write(make_result(image, seq=n, pts=n * 40, boxes=[(60, 80, 160, 200)]), 0)
    assert (image == before).all()
    picture = decode(tmp_path / "out.mp4")[0][-1].astype(int)
    changed = np.abs(picture - 128).max(axis=2) > 40
    for edge in (changed[90:190, 56:65], changed[90:190, 156:165], changed[196:205, 70:150].T):
        assert edge.any(axis=1).mean() > 0.9
    assert not changed[110:190, 70:150].any()
    assert not changed[:, 240:].any()


def test_colours_survive_with_the_tags_that_say_how(tmp_path):
    colours = [(0, 0, 200), (0, 200, 0), (200, 0, 0), (200, 200, 200)]
    image = np.repeat(np.array(colours, np.uint8)[None], 720, 0).repeat(320, 1)
    with VideoFile(tmp_path / "out.mp4") as video:
        video.write(make_result(image, pts=0), 0)
    with av.open(str(tmp_path / "out.mp4")) as source:
        context = source.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (6, 1)  # BT.601 matrix, studio range
    picture = decode(tmp_path / "out.mp4")[0][0]
    for n, colour in enumerate(colours):
        middle = picture[100:600, n * 320 + 50 : n * 320 + 270].reshape(-1, 3).mean(0)
        assert middle == pytest.approx(colour, abs=6)


@pytest.mark.parametrize("kind", [".mp4", ".webm"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (63, 48), (64, 47), (33, 35), (270, 190)])
def test_odd_sizes_get_one_repeated_edge(tmp_path, kind, width, height):
    bars = ((np.arange(height)[:, None] // 6 + np.arange(width) // 6) % 2 * 120 + 60).astype(np.uint8)
    with VideoFile(tmp_path / f"out{kind}") as video:
        video.write(make_result(np.repeat(bars[..., None], 3, axis=2), pts=0), 0)
    picture = decode(tmp_path / f"out{kind}")[0][0]
    expected = np.pad(bars, ((0, height % 2), (0, width % 2)), mode="edge")
    assert picture.shape == (*expected.shape, 3)
    assert np.abs(picture.mean(axis=2) - expected).mean() < 8


def test_a_stream_that_changes_its_size_is_letterboxed_to_the_first(tmp_path):
    with VideoFile(tmp_path / "out.mp4") as video:
        video.write(make_result(grey(200, 48, 65), seq=0, pts=0), 0)
        video.write(make_result(grey(200, 100, 400), seq=1, pts=40), 0)
        video.write(make_result(grey(200, 480, 64), seq=2, pts=80), 0)
    first, wide, tall = (picture.mean(axis=2) for picture in decode(tmp_path / "out.mp4")[0])
    assert first.shape == wide.shape == tall.shape == (48, 66)
    assert first.min() > 180
    assert (wide[:13].mean() < 20) and (wide[-13:].mean() < 20) and wide[18:30].mean() > 180
    assert (tall[:, :26].mean() < 20) and (tall[:, -26:].mean() < 20) and tall[:, 31:34].mean() > 160


def test_a_failure_elsewhere_leaves_a_playable_video(tmp_path):
    video = VideoFile(tmp_path / "out.mp4")
    for n in range(5):
        video.write(make_result(grey(level_of(n)), seq=n, pts=n * 40), 0)
    with pytest.raises(ZeroDivisionError), video:
        raise ZeroDivisionError
    assert len(decode(tmp_path / "out.mp4")[0]) == 5


def test_without_a_frame_there_is_no_file_and_a_note(tmp_path, caplog):
    with caplog.at_level(logging.INFO), VideoFile(tmp_path / "out.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []
    assert "no frame arrived" in caplog.text


def noise(seed: int):
    return np.random.default_rng(seed).integers(0, 255, (96, 128, 3), np.uint8)


@pytest.mark.parametrize(
    ("kind", "frames", "playable"),
    [(".mp4", 150, True), (".mp4", 20, False), (".mov", 150, True), (".mkv", 150, True), (".avi", 150, True)],
)
def test_abort_leaves_nothing_under_the_final_name(tmp_path, caplog, kind, frames, playable):
    path = tmp_path / f"out{kind}"
    path.write_bytes(b"the one of before")
    video = VideoFile(path)
    for n in range(frames):
        video.write(make_result(noise(n), seq=n, pts=n * 40), 0)
    video.abort()
    video.close()
    assert path.read_bytes() == b"the one of before"
    part = tmp_path / f"out{kind}.part"
    assert part.exists() is playable
    if playable:
        assert len(decode(part)[0]) > 50
    assert ("can be played" if playable else "no file was kept") in caplog.text
    with pytest.raises(SinkWriteError, match="closed"):
        video.write(make_result(), 0)


@pytest.mark.parametrize("kind", [".mp4", ".mov"])
def test_whenever_the_process_is_killed_the_last_fragment_plays(tmp_path, monkeypatch, kind):
    """Every state of the part file, from its first write to its last, and in the middle of each."""
    done: list[tuple[int, bytes]] = []
    write, seek, at = PartFile.write, PartFile.seek, [0]

    def noted_write(self, data):
        done.append((at[0], bytes(data)))
        at[0] += len(data)
        return write(self, data)

    def noted_seek(self, offset, whence=0):
        at[0] = seek(self, offset, whence)
        return at[0]

    monkeypatch.setattr(PartFile, "write", noted_write)
    monkeypatch.setattr(PartFile, "seek", noted_seek)
    with VideoFile(tmp_path / f"out{kind}") as video:
        for n in range(175):
            video.write(make_result(grey(level_of(n % 12)), seq=n, pts=n * 40), 0)
    state, counts, finished = bytearray(), [], False
    for place, data in done:
        for length in (len(data) // 2, len(data)):
            changed = data[:length]
            state[place : place + length] = changed
            (tmp_path / "killed").write_bytes(state)
            count = decodable(tmp_path / "killed")[0]
            finished |= place < 100 and len(state) > 10_000 and length == len(data) < 100
            assert count == 175 if finished else count >= in_whole_fragments(bytes(state)), (place, length)
            counts.append(count)
    assert counts[-1] == 175 and sorted({n // 50 for n in counts}) == [0, 1, 2, 3]


def test_a_killed_recording_is_kept_when_the_next_one_begins(tmp_path, caplog):
    killed = VideoFile(tmp_path / "out.mp4")
    for n in range(120):
        killed.write(make_result(grey(level_of(n % 12)), seq=n, pts=n * 40), 0)
    killed._part._file.close()  # as the system does it, with nothing finished
    write(tmp_path / "out.mp4", 3)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.mp4", "out.mp4.part.old"]
    assert decodable(tmp_path / "out.mp4.part.old")[0] == 100
    assert len(decode(tmp_path / "out.mp4")[0]) == 3
    assert "what it wrote is kept as" in caplog.text


def test_an_index_that_finds_no_room_in_front_stays_at_the_end(tmp_path, monkeypatch, caplog):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full, a device that has no space left")
    path = write(tmp_path / "out.mp4")
    front, whole = path.read_bytes(), decode(path)[1]
    monkeypatch.setattr("pipeline.sinks.index.MOST_BYTES", 10)
    path = write(tmp_path / "large.mp4")
    assert boxes_of(path)[-1] == b"moov" and decode(path)[1] == whole and len(path.read_bytes()) == len(front)
    monkeypatch.undo()
    (tmp_path / "copy").symlink_to(full)
    with pytest.raises(OSError, match="No space left"):
        index_to_front(path, tmp_path / "copy")
    assert boxes_of(path)[-1] == b"moov" and sorted(e.name for e in tmp_path.iterdir()) == [
        "large.mp4",
        "out.mp4",
    ]
    assert index_to_front(path, tmp_path / "copy")
    assert path.read_bytes()[:4] == front[:4] and boxes_of(path) == boxes_of(tmp_path / "out.mp4")
    assert decode(path)[1] == whole


def test_until_closed_there_is_only_a_part_file(tmp_path, caplog):
    with VideoFile(tmp_path / "out.mp4") as video:
        video.write(make_result(pts=0), 0)
        assert [each.name for each in tmp_path.iterdir()] == ["out.mp4.part"]
    assert [each.name for each in tmp_path.iterdir()] == ["out.mp4"]
    assert "is replaced" not in caplog.text
    with VideoFile(tmp_path / "out.mp4") as video:
        video.write(make_result(pts=0), 0)
        assert "bytes of an earlier run, is replaced" in caplog.text


def test_two_runs_do_not_write_one_video(tmp_path):
    with VideoFile(tmp_path / "out.mp4") as first:
        for n in range(80):  # so that there is a fragment
            first.write(make_result(seq=n, pts=50 * n), 0)
        with pytest.raises(SinkOpenError, match="another run is writing it"):
            VideoFile(tmp_path / "out.mp4").write(make_result(pts=0), 0)
        first.write(make_result(seq=80, pts=4000), 0)
    assert [each.name for each in tmp_path.iterdir()] == ["out.mp4"]
    assert len(decode(tmp_path / "out.mp4")[0]) == 81


FILL_THE_DISK = """
import json, os, resource, sys
from pathlib import Path
from pipeline.errors import SinkWriteError
from pipeline.sinks import VideoFile
from tests.test_sinks_common import make_result
from tests.test_sinks_video import decode, noise

folder, kind = Path(sys.argv[1]), sys.argv[2]

def record(name):
    frames, where = 0, "close"
    try:
        with VideoFile(folder / name) as video:
            for n in range(60):
                video.write(make_result(noise(n), seq=n, pts=n * 40), 0)
                frames += 1
    except SinkWriteError as error:
        return frames, str(error), getattr(error, "__notes__", [])
    return frames, "", []

record("whole" + kind)
size = os.path.getsize(folder / f"whole{kind}")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
report = []
for limit in (10, size // 2, size - 20_000, size - 1500, size - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    name = f"{limit}{kind}"
    frames, error, notes = record(name)
    part = folder / (name + ".part")
    kept = len(decode(part)[0]) if part.exists() else 0
    report.append([frames, error, notes, (folder / name).exists(), part.exists(), kept])
print(json.dumps(report))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("kind", [".mp4", ".mkv"])
def test_a_full_disk_is_one_error_wherever_it_strikes(tmp_path, kind):
    child = in_child(FILL_THE_DISK, tmp_path, kind)
    assert child.stderr == "" and child.returncode == 0
    report = json.loads(child.stdout)
    written = []
    for frames, error, notes, final_exists, part_exists, kept in report:
        assert error.startswith("cannot write video ") and "largest size allowed" in error, error
        assert "\n" not in error and notes == []
        assert not final_exists
        assert ("can be played" in error) is part_exists is (kept > 0)
        written.append(frames)
    # It struck early, midway, and when only the rest of the file was to be written.
    assert written[0] < 40 and written[1] < 60 and written[-1] == 60
    # An MP4's first two seconds, 50 frames, are its first fragment.
    kept = [frames for *_, frames in report]
    assert kept[0] == 0 and ([n >= 50 for n in kept[1:]] == [False, True, True, True] or kind == ".mkv")
    assert kept[1] > 0 or kind == ".mp4"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing/{stream}.mp4", r"the folder \S*missing does not exist; create it"),
        ("file/{stream}.mp4", "file is not a folder"),
        ("out.gif", r"unknown extension '\.gif'; valid: \.mp4, \.mov, \.mkv, \.webm, \.avi"),
        ("out", "unknown extension ''; valid"),
        ("missing/out.mp4", r"the folder \S*missing does not exist; create it"),
        ("folder.mp4", "is a folder; give the name of a file"),
        ("file/out.mp4", "file is not a folder"),
        ("x" * 300 + ".mp4", "the name is too long"),
        ("a\0b.mp4", "null character"),
        ("{cam}.mp4", r"unknown placeholder \{cam\}; valid: \{stream\}"),
        ("{stream}/out.mp4", "stands for a part of the file's name"),
    ],
)
def test_a_name_that_cannot_be_is_refused_at_once(tmp_path, name, says):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SinkOpenError, match=says):
        VideoFiles(tmp_path / name)
    if "{" not in name:
        with pytest.raises(SinkOpenError, match=says):
            VideoFile(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_a_name_that_ffmpeg_would_take_for_an_address_or_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rtsp:cam.mp4", "a%03d.mp4", "-.mp4"):
        assert len(decode("./" + str(write(name, 3)))[0]) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_a_link_keeps_being_one(tmp_path):
    (tmp_path / "link.mp4").symlink_to(tmp_path / "real.mp4")
    write(tmp_path / "link.mp4", 2)
    assert (tmp_path / "link.mp4").is_symlink()
    assert len(decode(tmp_path / "real.mp4")[0]) == 2


def test_each_stream_has_its_own_file_under_a_safe_name(tmp_path):
    streams = ["cam 1", "cam:1", "../../x", "Gewürz", "gewürz", "a" * 300, "..."]
    with VideoFiles(tmp_path / "out-{stream}.mp4", streams) as videos:
        for n in range(5):
            for index, stream in enumerate(streams):
                image = grey(level_of(index))
                videos.write(make_result(image, seq=n, stream=stream, pts=n * 40), 0)
    found = {each.name: decode(each)[0] for each in tmp_path.iterdir()}
    assert {"out-cam_1.mp4", "out-cam_1-2.mp4", "out-_.._x.mp4", "out-Gewürz.mp4"} <= set(found)
    assert sorted(round((pictures[0].mean() - 30) / 17) for pictures in found.values()) == list(range(7))
    assert all(len(pictures) == 5 for pictures in found.values())


def test_one_stream_needs_no_placeholder_and_two_do(tmp_path):
    with VideoFiles(tmp_path / "out.mp4", ["a"]) as videos:
        videos.write(make_result(stream="a", pts=0), 0)
        with pytest.raises(SinkWriteError, match=r"put \{stream\} into its name, such as .*-\{stream\}\.mp4"):
            videos.write(make_result(stream="b", pts=0), 0)
    assert len(decode(tmp_path / "out.mp4")[0]) == 1
    with pytest.raises(SinkOpenError, match="several streams to one video"):
        VideoFiles(tmp_path / "other.mp4", ["a", "b"])


def names(folder) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_every_streams_name_is_had_from_the_begin_until_the_end(tmp_path, caplog):
    with VideoFiles(tmp_path / "{stream}.mp4", ["a", "b"]) as videos:
        assert names(tmp_path) == {"a.mp4.part", "b.mp4.part"}
        for stream in ("a", "b"):
            with pytest.raises(SinkOpenError, match="another run is writing it"):
                VideoFile(tmp_path / f"{stream}.mp4")
        videos.write(make_result(stream="b", pts=0), 0)
    assert names(tmp_path) == {"b.mp4"}
    assert "no frame arrived for video" in caplog.text and "a.mp4, so it was not written" in caplog.text


@pytest.mark.parametrize("in_the_way", ["run", "folder"])
def test_a_streams_file_that_cannot_be_is_refused_at_once_and_of_the_others_nothing_is_left(
    tmp_path, in_the_way
):
    if in_the_way == "folder":
        (tmp_path / "b.mp4").mkdir()
    other = None if in_the_way == "folder" else VideoFile(tmp_path / "b.mp4")
    before = names(tmp_path)
    with pytest.raises(SinkOpenError, match=r"cannot write \S*b\.mp4: (it is a folder|another run)"):
        VideoFiles(tmp_path / "{stream}.mp4", ["a", "b", "c"])
    with VideoFiles(tmp_path / "{stream}.mp4", ["a"]) as videos:
        with pytest.raises(SinkOpenError, match=r"b\.mp4: "):
            videos.admit("b")
        with pytest.raises(SinkWriteError, match=r"b\.mp4: "):  # that nobody announced
            videos.write(make_result(stream="b", pts=0), 0)
    assert names(tmp_path) == before
    if other is not None:
        other.close()


def test_a_name_is_given_up_with_its_stream(tmp_path):
    """Whether or not a frame came, and when the stream is back before the thread that writes hears of it."""
    with VideoFiles(tmp_path / "{stream}.mp4", ["a"]) as videos:
        videos.admit("b")
        videos.dismiss("b")
        assert names(tmp_path) == {"a.mp4.part"}
        videos.admit("b")
        videos.release("b")
        VideoFile(tmp_path / "b.mp4").close()
        videos.admit("b")
        videos.admit("b")  # removed and added, of which the thread has heard nothing yet
        assert names(tmp_path) == {"a.mp4.part", "b.mp4.part", "b-2.mp4.part"}
        videos.write(make_result(grey(40), stream="b", pts=0), 0)
        videos.release("b")
        videos.write(make_result(grey(200), stream="b", pts=0), 0)
    assert names(tmp_path) == {"b.mp4", "b-2.mp4"}
    assert [round(decode(tmp_path / name)[0][0].mean(), -1) for name in ("b.mp4", "b-2.mp4")] == [40, 200]
    videos.admit("c")  # the output was lost: nobody would give that up
    assert names(tmp_path) == {"b.mp4", "b-2.mp4"}


def test_one_file_that_fails_does_not_cost_the_others(tmp_path):
    videos = VideoFiles(tmp_path / "{stream}.mp4")
    for stream in ("a", "b", "c"):
        videos.write(make_result(stream=stream, pts=0), 0)
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises(SinkWriteError, match=r"cannot write video \S*b\.mp4: it is a folder"):
        videos.close()
    assert [len(decode(tmp_path / f"{stream}.mp4")[0]) for stream in "ac"] == [1, 1]


def test_the_nominal_rate_of_each_stream(tmp_path):
    with VideoFiles(tmp_path / "{stream}.mkv", fps={"a": 10, "b": Fraction(20)}) as videos:
        for n in range(3):
            for stream in "ab":
                videos.write(make_result(seq=n, stream=stream, captured_at=0.0), 0)
    assert decode(tmp_path / "a.mkv")[1] == pytest.approx([0, 0.1, 0.2])
    assert decode(tmp_path / "b.mkv")[1] == pytest.approx([0, 0.05, 0.1])


def test_two_threads_may_write_two_files(tmp_path):
    threads = [
        threading.Thread(target=write, args=(tmp_path / f"{n}{kind}",)) for n in range(2) for kind in KINDS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path in tmp_path.iterdir():
        levels = [round((picture.mean() - 30) / 17) for picture in decode(path)[0]]
        assert levels == list(range(12))
    assert len(list(tmp_path.iterdir())) == 10


def test_a_real_clip_keeps_its_timing(tmp_path, assets):
    with av.open(str(assets / "videos" / "bikes.mp4")) as source:
        frames = [frame for frame, _ in zip(source.decode(video=0), range(40), strict=False)]
    with VideoFile(tmp_path / "out.mp4") as video:
        for n, frame in enumerate(frames):
            image = frame.to_ndarray(format="bgr24")
            video.write(make_result(image, seq=n, pts=frame.pts, time_base=frame.time_base), 0)
    pictures, times, _ = decode(tmp_path / "out.mp4")
    start = frames[0].pts
    expected = [float((frame.pts - start) * frame.time_base) for frame in frames]
    assert times == pytest.approx(expected, abs=1e-4)
    errors = [
        np.abs(picture.astype(int) - frame.to_ndarray(format="bgr24")).mean()
        for picture, frame in zip(pictures, frames, strict=True)
    ]
    assert max(errors) < 8
