"""Sources in processes of their own: the same pictures and errors, and crashes that others don't notice."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import isolated as cost
from pipeline import Pipeline
from pipeline.accounts import Accounts
from pipeline.config import Config, StreamConfig, make_config
from pipeline.decide import name_streams
from pipeline.errors import ConfigError, SourceError, SourceOpenError, SourceReadError
from pipeline.flow import Dropped
from pipeline.frame import Decoded
from pipeline.sources import (
    Missed,
    Picture,
    Remembered,
    Source,
    Unreadable,
    encode_number,
    open_source,
    parse_source,
    read_number,
    route_ffmpeg_log,
)
from pipeline.sources.isolated import child, parent
from pipeline.sources.isolated.parent import IsolatedSource
from pipeline.sources.isolated.slots import SLOTS, SPARE, Lender, Slots
from pipeline.stages.capture import Capture
from tests.clips import make_clip, make_sound
from tests.servers import free_port, gst_rtsp_server, http_server, silent_server
from tests.test_supervision import running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sources are isolated on Linux alone")


def in_process(source: Path | str, stop: threading.Event | None = None, **stream: Any) -> Source:
    config = StreamConfig(source=str(source), **stream)
    return open_source(parse_source(str(source)), config, stop or threading.Event())


def isolated(source: Path | str, stop: threading.Event | None = None, **stream: Any) -> IsolatedSource:
    opened = in_process(source, stop, isolate=True, **stream)
    assert isinstance(opened, IsolatedSource)
    return opened


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended, and was waited for or is nobody's."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def files_open() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def everything(source: Source) -> tuple[list[object], SourceError | None]:
    """All that a source says, with its error; pictures as what can be compared."""
    said: list[object] = [source.live, source.description, source.frame_count]
    try:
        with source:
            for each in source:
                if isinstance(each, Picture):
                    said += [each.pts, each.time_base, each.name, each.damaged, each.pixels.shape]
                    said += [each.image.tobytes(), each.image.flags.c_contiguous, type(each.image)]
                else:
                    said.append(each)
    except SourceReadError as error:
        said.append(source.corrupt_packets)
        return said, error
    said.append(source.corrupt_packets)
    return said, None


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=60, size=(128, 96), fps=50)


def noise(count: int, height: int, width: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).integers(0, 256, (count, height, width, 3), np.uint8))


CLIPS: dict[str, Callable[[Path], Path]] = {
    "yuv420p": lambda folder: make_clip(folder / "a.mp4", images=noise(4, 96, 128), size=(128, 96)),
    # No multiple of four lines, nor of two pixels: of these PyAV makes no frame in place.
    "450 lines": lambda folder: make_clip(folder / "a.mp4", images=noise(3, 450, 80), size=(80, 450)),
    "odd": lambda folder: make_clip(
        folder / "a.mkv", images=noise(3, 49, 65), size=(65, 49), pix_fmt="yuv444p"
    ),
    "gray": lambda folder: make_clip(folder / "a.mkv", images=noise(3, 48, 64), pix_fmt="gray"),
    "ten bits": lambda folder: make_clip(folder / "a.mkv", images=noise(3, 48, 64), pix_fmt="yuv420p10le"),
    "mjpeg": lambda folder: make_clip(
        folder / "a.avi", images=noise(3, 96, 128), size=(128, 96), codec="mjpeg"
    ),
    "bottom up": lambda folder: make_clip(
        folder / "a.avi", images=noise(3, 48, 64), codec="rawvideo", pix_fmt="bgr24"
    ),
    "turned": lambda folder: make_clip(folder / "a.mp4", images=noise(3, 48, 64), rotation=90, hflip=True),
    "interlaced": lambda folder: make_clip(
        folder / "a.mkv", images=noise(3, 96, 128), size=(128, 96), options={"x264-params": "tff=1"}
    ),
}


FINISHED = ("ten bits", "interlaced")
"""What swscale converts by cannot be told to another process there: where chroma lies, the field order."""


@pytest.mark.parametrize("kind", CLIPS)
def test_everything_is_the_same(tmp_path: Path, kind: str) -> None:
    path = CLIPS[kind](tmp_path)
    assert everything(isolated(path)) == everything(in_process(path))
    with in_process(path) as here, isolated(path) as there:
        for one, other in zip(here, there, strict=True):
            assert isinstance(one, Picture) and isinstance(other, Picture)
            if kind in FINISHED:
                assert isinstance(other.pixels, np.ndarray)
            else:
                assert type(one.pixels) is type(other.pixels) and one.pixels.nbytes == other.pixels.nbytes


@pytest.mark.assets
@pytest.mark.parametrize("name", ["vtest.avi", "nvidia_Retail02_short.mp4"])
def test_real_clips_are_the_same(assets: Path, name: str) -> None:
    with in_process(assets / "videos" / name) as here, isolated(assets / "videos" / name) as there:
        for _, one, other in zip(range(25), here, there, strict=False):
            assert isinstance(one, Picture) and isinstance(other, Picture)
            assert isinstance(other.pixels, Decoded)
            assert (one.pts, one.time_base) == (other.pts, other.time_base)
            assert np.array_equal(one.image, other.image)


def test_sizes_that_change_in_mid_stream(tmp_path: Path) -> None:
    sizes = [(64, 48), (320, 240), (128, 96)]
    parts = [
        make_clip(tmp_path / f"{size[0]}.h264", images=noise(3, size[1], size[0]), size=size)
        for size in sizes
    ]
    path = tmp_path / "all.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    found, error = everything(isolated(path))
    assert (found, error) == everything(in_process(path)) and error is None
    shapes = [each for each in found if isinstance(each, tuple)]
    assert len(set(shapes)) == 3


def test_pictures_and_those_that_cannot_be_read(tmp_path: Path) -> None:
    import cv2

    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), encode_number(number, 48, 64))
    (tmp_path / "2.png").write_bytes(b"no picture")
    found, error = everything(isolated(tmp_path))
    assert (found, error) == everything(in_process(tmp_path)) and error is None
    assert any(isinstance(each, Unreadable) for each in found) and "3.png" in found


def same_error(one: SourceError, other: SourceError) -> bool:
    return (type(one), one.cause, str(one)) == (type(other), other.cause, str(other))


def test_errors_are_the_same(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "a.mp4", frames=40, container_options={"movflags": "+faststart"})
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    found, error = everything(isolated(tmp_path / "cut.mp4"))
    expected, failure = everything(in_process(tmp_path / "cut.mp4"))
    assert found == expected and error is not None and failure is not None
    assert same_error(error, failure) and error.cause == "ended" and len(found) > 50


def test_errors_at_opening_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    refused = f"rtsp://me:canary-secret@127.0.0.1:{free_port()}/stream"
    for source, cause in (
        (make_sound(tmp_path / "a.mp4"), "format"), (tmp_path / "text.mp4", "format"), (refused, "refused"),
    ):  # fmt: skip
        with pytest.raises(SourceOpenError) as here:
            in_process(source)
        with pytest.raises(SourceOpenError) as there:
            isolated(source)
        assert same_error(here.value, there.value) and there.value.cause == cause
        assert "canary" not in str(there.value)


def test_a_password_is_in_no_list_of_processes() -> None:
    seen: list[str] = []
    stop = threading.Event()

    def look() -> None:
        children = Path(f"/proc/self/task/{opener.native_id}/children")
        while opener.is_alive():
            with contextlib.suppress(OSError):  # it may end, while we look
                for pid in children.read_text().split():
                    for file in ("cmdline", "environ"):
                        seen.append(Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace"))
            time.sleep(0.02)

    with silent_server() as server:
        url = server.with_login("me", "canary-secret")

        def opening() -> None:
            with pytest.raises(SourceOpenError, match="no data within") as caught:
                isolated(url, stop, open_timeout=0.5, rtsp_transport="tcp")
            assert caught.value.cause == "timeout"

        opener = threading.Thread(target=opening)
        opener.start()
        look()
        opener.join()
    assert any("isolated" in text for text in seen) and not any("canary" in text for text in seen)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_an_error_that_names_the_signal(clip: Path, number: signal.Signals) -> None:
    files = files_open()
    source = isolated(clip)
    pictures = iter(source)
    kept = [next(pictures) for _ in range(5)]
    os.kill(source.pid, number)
    with pytest.raises(SourceReadError, match=f"ended by {number.name}") as caught:
        kept.extend(pictures)
    assert caught.value.cause == "crash" and f"after {len(kept)} pictures" in str(caught.value)
    assert gone(source.pid)
    # What had come is whole, and outlives the process that decoded it.
    assert [read_number(each.image) for each in kept] == list(range(len(kept)))  # type: ignore[union-attr]
    del kept, pictures, source, caught
    assert files_open() == files


def test_a_crash_while_opening_is_an_error_at_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.sources.isolated import process

    monkeypatch.setattr(process, "_BEGIN", "import os; os.kill(os.getpid(), 11)")
    files = files_open()
    with pytest.raises(SourceOpenError, match="ended by SIGSEGV") as caught:
        isolated("sample:")
    assert caught.value.cause == "crash"
    del caught
    assert files_open() == files


def test_all_pictures_may_be_kept(clip: Path) -> None:
    with isolated(clip) as source:
        kept = list(source)
    assert [read_number(each.image) for each in kept] == list(range(60))  # type: ignore[union-attr]


def test_slots_are_lent_and_come_back() -> None:
    slots, returned = Slots(1000), list[int]()
    lender = Lender(os.dup(slots.file), slots.each, returned.append)
    kept = []
    for slot in range(SLOTS):
        slots.memory(slot, 1000)[:] = slot
        kept.append(lender.lend(slot, 1000)[10:20].view(np.ndarray))  # a view of it holds it, too
    assert returned == list(range(SLOTS - SPARE, SLOTS))  # of the last ones there are copies
    for slot in range(SLOTS):
        slots.memory(slot, 1000)[:] = 100
    assert [int(each[0]) for each in kept] == [100] * (SLOTS - SPARE) + list(range(SLOTS - SPARE, SLOTS))
    with pytest.raises(ValueError, match="expected a slot"):
        lender.lend(0, 1000)
    returned.clear()
    del kept[:3]
    assert sorted(returned) == [0, 1, 2]
    with pytest.raises(ValueError, match="expected a slot"):
        lender.lend(1, slots.each + 1)
    with pytest.raises(ValueError, match="expected sealed memory"):
        Lender(os.dup(slots.file), slots.each + 1, returned.append)
    slots.close()


def test_a_file_is_not_read_far_ahead(clip: Path) -> None:
    with isolated(clip) as source:
        pictures = iter(source)
        next(pictures)
        ahead = 0
        while source._process.hear() is not None:
            ahead += 1
    assert ahead == child.AHEAD


def test_a_live_source_is_read_on_and_what_nobody_took_is_told() -> None:
    with http_server(Path(), fps=200) as server, isolated(f"{server.url}/live.mjpeg") as source:
        assert source.live
        pictures = iter(source)
        first = next(pictures)
        assert isinstance(first, Picture) and first.decoded_at is not None
        time.sleep(0.5)  # 100 pictures for 16 slots
        number, missed = read_number(first.image), 0
        for each in pictures:
            number += 1
            if isinstance(each, Missed):
                missed += 1
                continue
            assert isinstance(each, Picture) and read_number(each.image) == number
            if missed and number > 100:
                break
        assert missed


def test_what_nobody_took_is_captured_and_dropped_in_the_books() -> None:
    accounts = Accounts(["cam"], ["capture"])
    with http_server(Path(), fps=200) as server:
        source = f"{server.url}/live.mjpeg"
        stream = StreamConfig(source=source, isolate=True, max_frames=120)
        seen: list[tuple[int, str]] = []
        behind = 0.0
        for each in Capture(parse_source(source), stream, accounts.streams["cam"])():
            if isinstance(each, Dropped):
                seen.append((each.item.seq, each.reason))
                continue
            seen.append((each.seq, ""))
            if each.seq == 0:
                time.sleep(0.5)
            elif each.seq == 1:  # it lay in its slot meanwhile, and is as old as that
                behind = time.monotonic() - each.captured_at
    assert [seq for seq, _ in seen] == list(range(120))
    assert {reason for _, reason in seen} == {"", "overrun"}
    assert behind > 0.3


def test_damage_is_counted_and_logs_reach_us(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=30)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = b"\xff" * (len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    route_ffmpeg_log(logging.WARNING)
    try:
        with caplog.at_level(logging.WARNING):
            expected = everything(in_process(path))
            here = [record.getMessage() for record in caplog.records]
            caplog.clear()
            assert everything(isolated(path)) == expected
            there = [record.getMessage() for record in caplog.records]
    finally:
        route_ffmpeg_log(None)
    assert sorted(here) == sorted(there) and here
    assert expected[0][-1] > 0  # type: ignore[operator]


def test_what_opening_taught_comes_back(clip: Path) -> None:
    remembered = Remembered()
    with gst_rtsp_server(clip) as server:
        config = StreamConfig(source=server.url, rtsp_transport="udp", isolate=True)
        with open_source(parse_source(server.url), config, threading.Event(), remembered) as source:
            next(iter(source))
    assert remembered == Remembered("udp")


def test_stop_ends_a_source_whose_process_answers_to_nothing(clip: Path) -> None:
    stop = threading.Event()
    source = isolated(clip, stop)
    pictures = iter(source)
    next(pictures)
    os.kill(source.pid, signal.SIGSTOP)  # as one that sits in a native call
    threading.Timer(0.2, stop.set).start()
    assert len(list(pictures)) <= child.AHEAD + 1
    assert gone(source.pid)


def test_a_process_that_hangs_is_ended(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "GRACE_SECONDS", 0.2)
    source = isolated(clip, stall_timeout=0.3, open_timeout=20)
    pictures = iter(source)
    next(pictures)
    os.kill(source.pid, signal.SIGSTOP)
    with pytest.raises(SourceReadError, match="hung, and was ended") as caught:
        list(pictures)
    assert caught.value.cause == "timeout" and gone(source.pid)


def test_a_child_ends_with_its_parent_even_if_it_answers_to_nothing(clip: Path) -> None:
    program = f"""
import sys, threading, time
from pipeline.config import StreamConfig
from pipeline.sources import open_source, parse_source
source = open_source(parse_source({str(clip)!r}), StreamConfig(source="x", isolate=True), threading.Event())
pictures = iter(source)
next(pictures)
print(source.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        assert not gone(pid)
        process.kill()
    until(lambda: gone(pid))


def test_which_streams_are_isolated() -> None:
    config = make_config({
        "isolate_sources": True,
        "streams": [{"source": "sample:"}, {"source": "sample:", "isolate": False}],
    })  # fmt: skip
    named = name_streams(config.streams, isolate=config.isolate_sources)
    assert [stream.isolate for _, stream in named.values()] == [True, False]
    assert Pipeline(config).sources.keys() == named.keys()
    assert [stream.isolate for _, stream in Pipeline(config).sources.values()] == [True, False]


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """This process may open so many more files meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = os.open("/dev/null", os.O_RDONLY)
    taken = [used]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(used))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_it_is_an_error_of_this_source_alone(clip: Path) -> None:
    """Whatever the first is that it lacks; nothing is left open."""
    before = len(os.listdir("/proc/self/fd"))
    said = []
    for left in range(12):
        try:
            with descriptors_left(left), contextlib.closing(isolated(clip)) as source:
                next(iter(source))
        except SourceError as error:
            said.append(str(error))
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before
    assert len(said) >= 6 and "no process can be started for it (Too many open files)" in said[0]
    assert len(said) < 12, "with a dozen it works"


def test_isolation_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(ConfigError, match="on Linux only"):
        make_config({"streams": [{"source": "sample:", "isolate": True}]})
    with pytest.raises(ConfigError, match="on Linux only"):
        make_config({"isolate_sources": True, "streams": [{"source": "sample:"}]})


def children() -> list[int]:
    """Processes that this one started, but those of Python's own multiprocessing, which other tests leave."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return [pid for pid in found if b"multiprocessing" not in command_of(pid)]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has gone
        return b""


def of_stream(line: Pipeline, name: str) -> Any:
    return line.accounts.streams[name]


def test_a_line_whose_decoders_are_killed_at_random(cheap_model: str, clip: Path) -> None:
    def stream(name: str, **keys: Any) -> dict[str, Any]:
        return {"source": str(clip), "name": name, "loop": True, "pace": 50, **keys}

    again = {"isolate": True, "reconnect": True, "backoff": 0.05, "backoff_max": 0.05}
    config = Config.model_validate({
        "model": cheap_model,
        "streams": [
            stream("a", **again), stream("b", **again), stream("once", isolate=True), stream("quiet"),
        ],
    })  # fmt: skip
    files, draw, killed = files_open(), random.Random(5), 0
    numbers: dict[str, list[int]] = {name: [] for name in ("a", "b", "once", "quiet")}
    due = time.monotonic() + 1
    with Pipeline(config) as line:
        for result in line:
            numbers[result.stream].append(result.frame.seq)
            crashes = (
                of_stream(line, "a").link.failures["crash"] + of_stream(line, "b").link.failures["crash"]
            )
            ended = of_stream(line, "once").error is not None
            if killed < 6 or not ended:
                if time.monotonic() > due and (pids := children()):
                    os.kill(draw.choice(pids), draw.choice([signal.SIGSEGV, signal.SIGKILL]))
                    killed += 1
                    due = time.monotonic() + draw.uniform(0.1, 1)
            elif crashes >= 3 and of_stream(line, "a").up and of_stream(line, "b").up:
                line.stop()
    del result
    assert not children() and files_open() <= files
    assert not line.accounts.violations(line.left_in_line())
    once, quiet = of_stream(line, "once"), of_stream(line, "quiet")
    assert once.error.cause == "crash" and once.ending == "crash"
    assert quiet.error is None and not quiet.link.failures
    for seen in numbers.values():
        assert seen == sorted(set(seen))


def test_its_cost_is_measured() -> None:
    result = cost.measure("sample:", frames=20, rounds=1)
    assert result["differing"] == 0
    for way in ("here", "isolated"):
        assert all(result[way][key] > 0 for key in cost.FIGURES)
    # Another Python with its libraries is megabytes, whatever the machine does beside this.
    assert result["difference"]["memory_mb"] > 5 and result["difference"]["first_cpu_ms"] > 10
    assert len(cost.limits(result)) == len(cost.LIMITS) + 1


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_stream_that_says_nothing_any_more_goes_by_the_line(cheap_model, tmp_path, all_of_them):
    clip = str(make_clip(tmp_path / "c.mp4", frames=100, fps=50, size=(128, 96)))
    stream = {"source": clip, "name": "cam", "live": True, "loop": True, "isolate": not all_of_them}
    with running(cheap_model, stream, isolate_sources=all_of_them) as run:
        run.until_results("cam", 3)
        assert run.line.sources["cam"][1].isolate is not all_of_them
        run.line.change_stream("cam", isolate=None)
        assert run.line.sources["cam"][1].isolate is all_of_them
        run.until_results("cam", 3)
