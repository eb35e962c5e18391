"""The whole line on real threads, a real session and real pictures: conservation however it ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.cheap_model import write_cheap_model
from pipeline import Pipeline
from pipeline.accounts import StreamCounts
from pipeline.config import make_config
from pipeline.cores import usable_cores
from pipeline.errors import AccountingError, ConfigError, ModelError, SinkWriteError, SourceOpenError
from pipeline.frame import Result
from pipeline.sample import SAMPLE
from pipeline.sinks import Sink
from pipeline.sources.synthetic import read_number
from pipeline.summary import summarize

FRAMES = 60
SOURCE = f"synthetic:64x48@1000?frames={FRAMES}"


def counts(line: Pipeline) -> dict[str, StreamCounts]:
    return {name: account.counts() for name, account in line.accounts.streams.items()}


def assert_conserved(line: Pipeline) -> None:
    """By the books, by the channels, and by the summary that a user sees."""
    for each in counts(line).values():
        assert each.captured == each.emitted + each.dropped_total
        assert (each.in_flight, each.unaccounted) == (0, 0)
    assert line.left_in_line() == 0
    assert summarize(line)["conserved"] is True


class Recorder:
    """A sink that keeps what it is given, or fails at a given result."""

    def __init__(self, fail_at: int | None = None, delay: float = 0.0) -> None:
        self.results: list[tuple[str, int, int]] = []
        self.ended: list[str] = []
        self._fail_at = fail_at
        self._delay = delay

    def write(self, result: Result, dropped_before: int) -> None:
        if len(self.results) == self._fail_at:
            raise SinkWriteError("the sink is full")
        if self._delay:
            time.sleep(self._delay)
        self.results.append((result.stream, result.frame.seq, dropped_before))

    def idle(self) -> None:
        pass

    def close(self) -> None:
        self.ended.append("closed")

    def abort(self) -> None:
        self.ended.append("aborted")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_file_loses_nothing_and_keeps_order(cheap_model: str, workers: int) -> None:
    with Pipeline(
        SOURCE,
        model=cheap_model,
        infer_workers=workers,
        preprocess_workers=workers,
        postprocess_workers=workers,
    ) as line:
        results = list(line)
    assert [result.frame.seq for result in results] == list(range(FRAMES))
    assert [read_number(result.frame.image) for result in results] == list(range(FRAMES))
    assert counts(line)["synthetic"] == StreamCounts(FRAMES, FRAMES, {})
    assert_conserved(line)


def test_what_is_detected_is_what_the_model_says(cheap_model: str) -> None:
    with Pipeline(SOURCE, model=cheap_model, max_detections=5) as line:
        for result in line:
            found = result.detections
            assert found.labels == ["thing0"]
            assert found.confidence == pytest.approx([0.9], abs=1e-6)
            # (16, 16, 8, 8) in the 32x32 input is a letterboxed 64x48: twice as large, 8 px up.
            np.testing.assert_allclose(found.xyxy, [[24, 16, 40, 32]], atol=1e-4)


def test_options_reach_the_stages(cheap_model: str) -> None:
    with Pipeline(SOURCE, model=cheap_model, conf_threshold=0.95) as line:
        assert all(len(result.detections) == 0 for result in line)
    with Pipeline(SOURCE, model=cheap_model, classes=["THING1", "thing2"]) as line:
        assert all(len(result.detections) == 0 for result in line)
    with (
        pytest.raises(ConfigError, match=r"has no class 'dog'; did you mean '.*'\? It has: thing0"),
        Pipeline(SOURCE, model=cheap_model, classes=["dog"]),
    ):
        pass


def test_a_box_that_lay_in_the_padding_alone_is_not_reported(tmp_path: Path) -> None:
    # A picture twice as wide as high: the top and bottom quarters of the input are padding.
    model = str(
        write_cheap_model(
            tmp_path / "m.onnx",
            boxes_cxcywh=((16.0, 4.0, 8.0, 6.0), (16.0, 16.0, 8.0, 8.0)),
            scores=(0.9, 0.8),
        )
    )
    with Pipeline("synthetic:64x32?frames=2", model=model) as line:
        assert [result.detections.labels for result in line] == [["thing1"], ["thing1"]]


def test_every_nth_and_max_frames_are_counted(cheap_model: str) -> None:
    config = {"streams": [{"source": SOURCE, "every_nth": 3, "max_frames": 10}], "model": cheap_model}
    recorder = Recorder()
    with Pipeline(make_config(config), sinks=[recorder]) as line:
        line.run()
    assert recorder.results == [
        ("synthetic", 0, 0),
        ("synthetic", 3, 2),
        ("synthetic", 6, 2),
        ("synthetic", 9, 2),
    ]
    assert counts(line)["synthetic"] == StreamCounts(10, 4, {("capture", "every_nth"): 6})
    assert_conserved(line)


def test_a_looped_file_counts_on_until_it_is_enough(cheap_model: str) -> None:
    config = make_config(
        {
            "streams": [{"source": "synthetic:64x48?frames=7", "loop": True, "max_frames": 25}],
            "model": cheap_model,
        }
    )
    with Pipeline(config) as line:
        results = list(line)
    assert [result.frame.seq for result in results] == list(range(25))
    assert [read_number(result.frame.image) for result in results] == [seq % 7 for seq in range(25)]
    # The rounds' times are one clock's: as if it were one long file.
    steps = {b.frame.pts - a.frame.pts for a, b in pairwise(results)}
    assert len(steps) == 1 and min(steps) > 0
    assert_conserved(line)


def test_a_looped_file_stops_when_asked(cheap_model: str) -> None:
    with Pipeline(str(SAMPLE), model=cheap_model) as once:
        frames = sum(1 for _ in once)
    config = make_config({"streams": [{"source": str(SAMPLE), "loop": True}], "model": cheap_model})
    with Pipeline(config) as line:
        for result in line:
            if result.frame.seq == frames + 5:
                line.stop()
    assert line.accounts.totals().captured > frames
    assert line.accounts.streams[result.stream].ending == "stopped"
    assert_conserved(line)


def test_a_paced_source_is_live_at_its_rate(cheap_model: str) -> None:
    """Its frames are due 1/100 s apart, whatever its own PTS say (1/10 s)."""
    config = make_config(
        {"streams": [{"source": "synthetic:64x48@10?frames=41", "pace": 100}], "model": cheap_model}
    )
    with Pipeline(config) as line:
        times = [result.frame.captured_at for result in line]
        assert line.flow is not None
    assert 0.38 <= times[-1] - times[0] < 1.0
    assert_conserved(line)


def test_several_streams_share_the_cores_for_video_decode(cheap_model: str) -> None:
    """A decoder's threads hold pictures; FFmpeg would give each stream as many as there are cores."""

    def threads_of(*streams: dict[str, Any]) -> list[int | None]:
        config = make_config({"streams": list(streams), "model": cheap_model})
        return [stream.decode_threads for _, stream in Pipeline(config).sources.values()]

    clip = {"source": str(SAMPLE)}
    assert threads_of(clip) == [None]
    assert threads_of(clip, clip) == [max(1, usable_cores() // 2)] * 2
    assert threads_of(*[clip] * 100) == [max(1, usable_cores() // 100)] * 100
    assert threads_of(clip, clip | {"decode_threads": 3})[1] == 3
    # One by itself, whatever they share: with more, H.264's decoder does not tell of damage.
    live = {"source": "rtsp://127.0.0.1/x"}
    assert threads_of(live, live) == [None, None]


def test_several_streams_keep_their_own_order_and_names(cheap_model: str) -> None:
    with Pipeline([SOURCE, SOURCE, SOURCE], model=cheap_model, infer_workers=2) as line:
        seen: dict[str, list[int]] = {}
        for result in line:
            seen.setdefault(result.stream, []).append(result.frame.seq)
    assert seen == {name: list(range(FRAMES)) for name in ("synthetic", "synthetic-2", "synthetic-3")}
    assert_conserved(line)


def test_live_drops_are_counted_in_one_place_and_seen_in_the_gaps(cheap_model: str) -> None:
    recorder = Recorder(delay=0.01)
    config = make_config(
        {"streams": [{"source": "synthetic:64x48@400?frames=200", "live": True}], "model": cheap_model}
    )
    with Pipeline(config, sinks=[recorder]) as line:
        line.run()
    (found,) = counts(line).values()
    assert found.captured == 200
    assert set(found.dropped) == {("capture", "drop_oldest")}
    assert found.emitted == len(recorder.results) < 200
    # The gaps are the drops, but for those after the last result.
    last = recorder.results[-1][1]
    assert sum(before for _, _, before in recorder.results) == last + 1 - found.emitted
    assert_conserved(line)


def test_live_latency_does_not_grow_under_overload(cheap_model: str) -> None:
    """With everything behind the first channel lossless and small, age is bounded: here by about ten
    periods of a stage that takes 10 ms, while the source runs for 1 s at four times its rate."""
    config = make_config(
        {"streams": [{"source": "synthetic:64x48@400?frames=400", "live": True}], "model": cheap_model}
    )
    ages = []
    with Pipeline(config, sinks=[Recorder(delay=0.01)]) as line:
        for result in line:
            ages.append(time.monotonic() - result.frame.captured_at)
    assert np.median(ages[-20:]) < 2 * np.median(ages[20:40]) + 0.1


@pytest.mark.parametrize(("live", "batch", "prepared"), [(True, 1, 0), (True, 2, 2), (False, 1, 2)])
def test_a_live_frame_is_prepared_when_inference_asks(
    tmp_path: Path, live: bool, batch: int, prepared: int
) -> None:
    """Otherwise it would wait where no fresher one can take its place; a batch is gathered beforehand."""
    model = str(write_cheap_model(tmp_path / "b.onnx", dynamic_batch=True))
    stream = {"source": "synthetic:64x48@1000?frames=300", "live": live}
    depths = []
    options = {"streams": [stream], "model": model, "batch": batch, "channel_capacity": 2}
    with Pipeline(make_config(options)) as line:
        for _ in line:
            time.sleep(0.005)  # the line comes to rest: the slow one is the caller
            assert line.flow is not None
            depths += [channel.depth for channel in line.flow.statistics() if channel.name == "blobs"]
    assert np.median(depths[5:30]) == prepared
    assert_conserved(line)


def test_batching_takes_frames_together_and_keeps_each_its_own(tmp_path: Path) -> None:
    model = str(write_cheap_model(tmp_path / "b.onnx", dynamic_batch=True))
    with Pipeline([SOURCE, SOURCE], model=model, batch=4, linger_ms=20, channel_capacity=8) as line:
        results = list(line)
    assert len(results) == 2 * FRAMES
    assert max(line.accounts.batches) > 1
    assert sum(size * times for size, times in line.accounts.batches.items()) == 2 * FRAMES
    assert all(result.detections.labels == ["thing0"] for result in results)
    assert_conserved(line)


def test_a_batch_that_the_model_cannot_take(cheap_model: str) -> None:
    with (
        pytest.raises(ConfigError, match="takes exactly 1 a run"),
        Pipeline(SOURCE, model=cheap_model, batch=2),
    ):
        pass


@pytest.mark.parametrize(
    ("sizes", "live", "firsts", "others"),
    [
        (["64x48"], None, [64], 64),
        (["64x48"], True, [2], 2),
        (["640x480"], None, [34], 34),
        (["640x480", "640x480"], None, [8, 8], 8),
        (["1920x1080"], None, [5], 5),
        (["64x48", "1920x1080"], None, [2, 1], 2),
        (["1920x1080", "1920x1080"], True, [2, 2], 2),
    ],
)
def test_channels_are_deep_for_small_pictures_of_files_and_shallow_for_several_large_ones(
    cheap_model: str, sizes: list[str], live: bool | None, firsts: list[int], others: int
) -> None:
    streams = [
        {"source": f"synthetic:{size}", "name": str(number), "live": live}
        for number, size in enumerate(sizes)
    ]
    with Pipeline(make_config({"streams": streams, "model": cheap_model})) as line:
        came: set[str] = set()
        for result in line:
            came.add(result.stream)
            if len(came) == len(sizes) and result.frame.seq >= 40:
                break
        assert line.flow is not None
        # None has ended yet: the others' channels go by those that run.
        capacities = {each.name: each.capacity for each in line.flow.statistics()}
        line.stop()
        assert [capacities.pop(f"frames:{number}") for number in range(len(sizes))] == firsts
        assert set(capacities.values()) == {others}
        assert all(each.high_watermark <= each.capacity for each in line.flow.statistics())
    assert_conserved(line)


@pytest.mark.parametrize(("workers", "batch"), [(3, 1), (1, 4), (3, 4)])
def test_every_frame_gets_its_own_answer(tmp_path: Path, workers: int, batch: int) -> None:
    """Solid pictures of 50 brightnesses; the box of each says which one the model saw."""
    for number in range(50):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((32, 32, 3), 5 * number, np.uint8))
    model = str(write_cheap_model(tmp_path / "echo.onnx", echo=8.0, dynamic_batch=True))
    with Pipeline(
        tmp_path, model=model, infer_workers=workers, preprocess_workers=workers, batch=batch, linger_ms=5
    ) as line:
        lefts = [float(result.detections.xyxy[0, 0]) for result in line]
    np.testing.assert_allclose(lefts, [12 + 8 * 5 * number / 255 for number in range(50)], atol=1e-3)
    assert (max(line.accounts.batches) > 1) == (batch > 1)


def test_blobs_are_used_again(cheap_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes back to the pool once inference has read it; no more are made than can be under way."""
    from pipeline.stages import preprocess

    pools: list[preprocess.BlobPool] = []
    seen: set[int] = set()

    class Watched(preprocess.BlobPool):
        def take(self, shape: tuple[int, ...]) -> Any:
            blob = super().take(shape)
            pools.append(self)
            seen.add(blob.ctypes.data)
            return blob

    monkeypatch.setattr("pipeline.serving.BlobPool", Watched)
    with Pipeline(SOURCE, model=cheap_model, infer_workers=2, channel_capacity=2) as line:
        line.run()
    assert len(pools) == FRAMES
    assert len(seen) < FRAMES
    assert sum(map(len, pools[0]._free.values())) == len(seen)


# Ways of ending ---------------------------------------------------------------------------------

ENDLESS = "synthetic:64x48@500"


@pytest.mark.parametrize("live", [True, False])
def test_stop_drains(cheap_model: str, live: bool) -> None:
    recorder = Recorder(delay=0.002)
    config = make_config({"streams": [{"source": ENDLESS, "live": live}], "model": cheap_model})
    with Pipeline(config, sinks=[recorder]) as line:
        timer = threading.Timer(0.3, line.stop)
        timer.start()
        line.run()
        timer.join()
    (found,) = counts(line).values()
    assert found.emitted == len(recorder.results) > 0
    assert {reason for _, reason in found.dropped} <= {"drop_oldest"}
    assert recorder.ended == ["closed"]
    assert line.accounts.streams["synthetic"].ending == "stopped"
    assert_conserved(line)


def test_latency_is_from_capture_to_the_end_of_the_sinks(cheap_model: str) -> None:
    class Slow(Sink):
        def write(self, result: Result, dropped_before: int) -> None:
            time.sleep(0.3)

    with Pipeline("synthetic:64x48?frames=1", model=cheap_model, sinks=[Slow()]) as line:
        started = time.monotonic()
        line.run()
        took = time.monotonic() - started
    (account,) = line.accounts.streams.values()
    assert account.latency.count == 1
    assert 0.3 <= account.latency.sum <= took


def test_a_line_that_ends_early_leaves_no_timer(cheap_model: str) -> None:
    before = set(threading.enumerate())  # one of pytest's own among them
    with Pipeline("synthetic:64x48?frames=3", model=cheap_model, duration=100) as line:
        line.run()
    assert set(threading.enumerate()) <= before


def test_duration_stops(cheap_model: str) -> None:
    started = time.monotonic()
    with Pipeline(ENDLESS, model=cheap_model, duration=0.3) as line:
        line.run()
    assert 0.3 <= time.monotonic() - started < 10
    assert_conserved(line)


@pytest.mark.parametrize("after", [0, 1, 30])
def test_leaving_the_loop_cancels_and_counts(cheap_model: str, after: int) -> None:
    recorder = Recorder()
    with Pipeline(ENDLESS, model=cheap_model, sinks=[recorder]) as line:
        for number, _ in enumerate(line):
            if number == after:
                break
    (found,) = counts(line).values()
    assert found.emitted == after + 1
    assert {reason for _, reason in found.dropped} <= {"cancelled"}
    assert recorder.ended == ["aborted"]
    assert_conserved(line)


def test_cancel_from_another_thread(cheap_model: str) -> None:
    with Pipeline(ENDLESS, model=cheap_model) as line:
        timer = threading.Timer(0.2, line.cancel)
        timer.start()
        line.run()
        timer.join()
    assert_conserved(line)


@pytest.mark.parametrize("when", ["made", "entered", "asked for results"])
def test_cancelled_before_there_is_anything_to_cancel(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Whenever it is asked: no source is opened, and outputs end as those of a run that was cancelled."""
    opened: list[object] = []
    monkeypatch.setattr("pipeline.streams.Capture.__call__", lambda *given: iter(opened.append(given) or ()))
    recorder, threaded = Recorder(), Recorder()
    threaded.own_thread = True
    line = Pipeline(ENDLESS, model=cheap_model, sinks=[recorder, threaded])
    if when == "made":
        line.cancel()
    with line:
        if when == "entered":
            line.cancel()
        results = iter(line)
        if when == "asked for results":
            line.cancel()
        assert list(results) == []
    assert line.flow.cancelled and not opened
    assert counts(line) == {"synthetic": StreamCounts(0, 0, {}, 0)}
    assert line.accounts.streams["synthetic"].ending == "cancelled"
    assert recorder.ended == threaded.ended == ["aborted"]
    assert_conserved(line)


def test_cancelled_and_never_iterated(cheap_model: str) -> None:
    recorder = Recorder()
    with Pipeline(ENDLESS, model=cheap_model, sinks=[recorder]) as line:
        line.cancel()
    assert recorder.ended == ["aborted"]


def test_an_exception_in_the_callers_loop_comes_out_and_the_books_close(cheap_model: str) -> None:
    with pytest.raises(ZeroDivisionError), Pipeline(ENDLESS, model=cheap_model) as line:
        for number, _ in enumerate(line):
            1 / (5 - number)
    assert_conserved(line)


def test_never_iterated(cheap_model: str) -> None:
    recorder = Recorder()
    with Pipeline(SOURCE, model=cheap_model, sinks=[recorder]) as line:
        pass
    assert recorder.ended == ["closed"]
    assert_conserved(line)


# Faults -----------------------------------------------------------------------------------------


class Fault(Exception):
    """What the tests throw."""


def failing_call(original: Callable[..., Any], at: int) -> Callable[..., Any]:
    """A stage's ``original`` call, raising when frame ``at`` is among its items."""

    def call(self: Any, items: list[Any]) -> Any:
        if any(item.frame.seq == at for item in items):
            raise Fault(f"frame {at}")
        return original(self, items)

    return call


def failing_source(original: Callable[..., Any], at: int) -> Callable[..., Any]:
    class Failing:
        def __init__(self, source: Any) -> None:
            self._source = source

        def __getattr__(self, name: str) -> Any:
            return getattr(self._source, name)

        def __iter__(self) -> Iterator[Any]:
            for number, picture in enumerate(self._source):
                if number == at:
                    raise Fault(f"picture {at}")
                yield picture

    return lambda *arguments: Failing(original(*arguments))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("at", [0, FRAMES // 2, FRAMES - 1])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("stage", ["capture", "preprocess", "infer", "postprocess", "emit"])
def test_a_fault_in_any_stage_ends_the_run_and_is_named(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch, stage: str, workers: int, at: int
) -> None:
    from pipeline import streams
    from pipeline.stages import capture, emit, infer, postprocess, preprocess

    if stage == "capture":
        monkeypatch.setattr(
            streams,
            "Capture",
            lambda *a, **k: capture.Capture(*a, **k, open_source=failing_source(capture.open_source, at)),
        )
    else:
        kind = {
            "preprocess": preprocess.Preprocess,
            "infer": infer.Infer,
            "postprocess": postprocess.Postprocess,
            "emit": emit.Emit,
        }[stage]
        monkeypatch.setattr(kind, "__call__", failing_call(kind.__call__, at))
    recorder = Recorder()
    with (
        pytest.raises(ExceptionGroup) as raised,
        Pipeline(
            SOURCE,
            model=cheap_model,
            infer_workers=workers,
            preprocess_workers=workers,
            postprocess_workers=workers,
            sinks=[recorder],
        ) as line,
    ):
        line.run()
    (fault,) = raised.value.exceptions
    assert isinstance(fault, Fault)
    assert fault.__notes__ == [f"raised in stage {stage!r}"]
    sequence = [seq for _, seq, _ in recorder.results]
    assert sequence == list(range(len(sequence)))
    assert len(sequence) <= at
    assert_conserved(line)


@pytest.mark.parametrize("at", [0, FRAMES // 2, FRAMES - 1])
def test_a_sink_that_fails_ends_the_run_and_the_others_are_finished(cheap_model: str, at: int) -> None:
    good, bad = Recorder(), Recorder(fail_at=at)
    with (
        pytest.raises(ExceptionGroup) as raised,
        Pipeline(SOURCE, model=cheap_model, sinks=[good, bad]) as line,
    ):
        line.run()
    assert [type(error) for error in raised.value.exceptions] == [SinkWriteError]
    assert good.ended == ["closed"]
    assert counts(line)["synthetic"].emitted == at
    assert counts(line)["synthetic"].dropped["emit", "failed"] == 1
    assert_conserved(line)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("stage", ["capture", "infer"])
def test_even_a_system_exit_in_a_thread_ends_the_run(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch, stage: str, workers: int
) -> None:
    from pipeline.stages import capture, infer

    def exits(*_: Any) -> Any:
        raise SystemExit("gone")

    kind, method = {"capture": (capture.Capture, "_frames"), "infer": (infer.Infer, "__call__")}[stage]
    monkeypatch.setattr(kind, method, exits)
    with (
        pytest.raises(ExceptionGroup) as raised,
        Pipeline(SOURCE, model=cheap_model, infer_workers=workers) as line,
    ):
        line.run()
    assert str(raised.value.exceptions[0]) == "SystemExit: gone"
    assert_conserved(line)


def test_a_sink_that_cannot_be_closed_does_not_keep_the_next_one_open(cheap_model: str) -> None:
    class Stubborn(Recorder):
        def close(self) -> None:
            raise RuntimeError("stuck")

    last = Recorder()
    with (
        pytest.raises(ExceptionGroup, match="failed"),
        Pipeline(SOURCE, model=cheap_model, sinks=[Stubborn(), last]) as line,
    ):
        line.run()
    assert last.ended == ["closed"]


def test_a_slow_consumer_loses_nothing_at_a_stop(cheap_model: str) -> None:
    """Captures that wait for space in their channel are not stuck, however long it takes."""
    with Pipeline(ENDLESS, model=cheap_model, channel_capacity=1) as line:
        for number, _ in enumerate(line):
            if number == 0:
                line.stop()
                time.sleep(2.5)  # longer than a stop waits for a source that does not answer
    (found,) = counts(line).values()
    assert found.captured == found.emitted
    assert line.accounts.streams["synthetic"].ending == "stopped"


def test_leaving_in_one_thread_ends_a_run_in_another(cheap_model: str) -> None:
    with Pipeline(ENDLESS, model=cheap_model) as line:
        thread = threading.Thread(target=line.run)
        thread.start()
        while line.accounts.totals().emitted == 0:
            time.sleep(0.01)
    thread.join(5)
    assert not thread.is_alive()
    assert_conserved(line)


def test_cancelling_elsewhere_never_closes_the_books_too_early(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another thread clears out of the channels is booked before anybody checks."""
    from pipeline.accounts import Accounts

    booked = Accounts.dropped

    def slowly(self: Accounts, stage: str, item: Any, reason: str) -> None:
        if threading.current_thread().name == "canceller":
            time.sleep(0.002)
        booked(self, stage, item, reason)

    monkeypatch.setattr(Accounts, "dropped", slowly)
    for _ in range(10):
        with Pipeline("synthetic:64x48?frames=100000", model=cheap_model, channel_capacity=8) as line:
            results = iter(line)
            next(results)
            canceller = threading.Thread(target=line.cancel, name="canceller")
            canceller.start()
            list(results)
            canceller.join()
        assert_conserved(line)


def test_leaving_while_another_thread_is_between_two_results(cheap_model: str) -> None:
    def take(line: Pipeline, raised: list[BaseException], begun: threading.Event) -> None:
        try:
            for _ in line:
                begun.set()
        except BaseException as error:
            raised.append(error)

    for _ in range(20):
        raised: list[BaseException] = []
        begun = threading.Event()
        with Pipeline("synthetic:64x48?frames=100000", model=cheap_model) as line:
            taker = threading.Thread(target=take, args=(line, raised, begun))
            taker.start()
            assert begun.wait(10)
        taker.join(10)
        assert not taker.is_alive()
        assert raised == []
        assert_conserved(line)


def test_iterating_after_the_block_is_refused(cheap_model: str) -> None:
    with Pipeline(SOURCE, model=cheap_model) as line:
        pass
    with pytest.raises(RuntimeError, match="inside the block"):
        list(line)


def test_a_sink_cannot_leave_the_line_that_it_belongs_to(cheap_model: str) -> None:
    class Leaver(Sink):
        def write(self, result: Result, dropped_before: int) -> None:
            line.__exit__(None, None, None)

    with Pipeline(SOURCE, model=cheap_model, sinks=[Leaver()]) as line:
        with pytest.raises(ExceptionGroup) as caught:
            line.run()
        assert "a sink cannot leave" in str(caught.value.exceptions[0])


def test_frames_that_a_stage_takes_together_share_its_time(cheap_model: str) -> None:
    with Pipeline("synthetic:64x48?frames=2000", model=cheap_model) as line:
        started = time.monotonic()
        line.run()
        took = time.monotonic() - started
    for stage in ("preprocess", "postprocess"):
        assert line.accounts.stages[stage].count == 2000
        assert 0 < line.accounts.stages[stage].sum <= took  # one worker each


def test_a_frame_that_gets_lost_is_an_error(cheap_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.accounts import StreamAccount

    real = StreamAccount.emitted

    def forgets(self: StreamAccount, seq: int, labels: list[str], at: float) -> None:
        if seq != 7:
            real(self, seq, labels, at)

    monkeypatch.setattr(StreamAccount, "emitted", forgets)
    with pytest.raises(ExceptionGroup) as raised, Pipeline(SOURCE, model=cheap_model) as line:
        line.run()
    assert [type(error) for error in raised.value.exceptions] == [AccountingError]
    assert "such as [7]" in str(raised.value.exceptions[0])
    assert summarize(line)["conserved"] is False


def test_one_stream_that_cannot_be_opened_does_not_stop_the_others(cheap_model: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("this is no video")
    with Pipeline([str(broken), SOURCE], model=cheap_model) as line:
        results = list(line)
    assert len(results) == FRAMES
    assert isinstance(line.accounts.streams["broken"].error, SourceOpenError)
    assert line.accounts.streams["broken"].ending == "format"
    assert line.accounts.streams["synthetic"].error is None
    assert_conserved(line)


def test_no_stream_that_can_be_opened_is_an_error(cheap_model: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("this is no video")
    with pytest.raises(ExceptionGroup) as raised, Pipeline(str(broken), model=cheap_model) as line:
        line.run()
    assert [type(error) for error in raised.value.exceptions] == [SourceOpenError]


def test_a_path_is_a_source_too(cheap_model: str) -> None:
    with Pipeline(SAMPLE, model=cheap_model, sinks=[recorder := Recorder()]) as line:
        line.run()
    assert len(recorder.results) == 250


def test_one_bad_picture_among_many_is_a_counted_skip(cheap_model: str, tmp_path: Path) -> None:
    for number in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"img{number}.png"), np.full((8, 8, 3), number, np.uint8))
    (tmp_path / "img3.png").write_bytes(b"not a picture")
    with Pipeline(str(tmp_path), model=cheap_model) as line:
        results = list(line)
    assert [(result.frame.seq, int(result.frame.image[0, 0, 0])) for result in results] == [
        (0, 1),
        (1, 2),
        (3, 10),
    ]
    (found,) = counts(line).values()
    assert found == StreamCounts(4, 3, {("capture", "unreadable"): 1})
    assert_conserved(line)


def test_a_model_error_comes_before_anything_is_touched(tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    kept.write_text("precious\n")
    with pytest.raises(ModelError), Pipeline(SOURCE, model="no-such-model", jsonl=str(kept)):
        pass
    assert kept.read_text() == "precious\n"


def test_the_line_can_be_iterated_once(cheap_model: str) -> None:
    with Pipeline(SOURCE, model=cheap_model) as line:
        line.run()
        with pytest.raises(RuntimeError, match="iterated once"):
            iter(line)
    with pytest.raises(RuntimeError, match="entered once"):
        line.__enter__()
    with Pipeline(SOURCE, model=cheap_model) as line, pytest.raises(RuntimeError, match="iterated once"):
        list(zip(line, line, strict=True))
    with pytest.raises(RuntimeError, match="iterate inside the block"):
        iter(Pipeline(SOURCE, model=cheap_model))


def test_summary_has_what_is_promised(cheap_model: str) -> None:
    before = time.process_time()
    with Pipeline(SOURCE, model=cheap_model) as line:
        line.run()
    summary = json.loads(json.dumps(summarize(line)))
    own = sum(stage["cpu_seconds"] for stage in summary["stages"].values())
    rounding = 0.0005 * (len(summary["stages"]) + 1)  # each is told in whole milliseconds
    assert 0.9 * own - rounding <= summary["cpu_seconds"] <= time.process_time() - before + 0.0005
    stream = summary["streams"]["synthetic"]
    keys = ("captured", "emitted", "dropped", "in_flight", "width", "height")
    assert {key: stream[key] for key in keys} == {
        "captured": FRAMES, "emitted": FRAMES, "dropped": {}, "in_flight": 0, "width": 64, "height": 48,
    }  # fmt: skip
    assert summary["conserved"] is True
    assert summary["fps"] > 0
    provider = summary["provider"]
    assert (provider["requested"], provider["active"]) == ("auto", "CPUExecutionProvider")
    assert provider["nodes"]["CPUExecutionProvider"] >= 1
    assert summary["model"]["family"] == "yolov8"
    assert len(summary["model"]["sha256"]) == 64
    for stage in ("capture", "preprocess", "infer", "postprocess", "emit"):
        assert summary["stages"][stage]["count"] == FRAMES
        assert 0 <= summary["stages"][stage]["p50_ms"] <= summary["stages"][stage]["p99_ms"]
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]


class Plain:
    """An output of one's own that has what it needs and no more."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.closed = False

    def write(self, result: Result, dropped_before: int) -> None:
        self.names.append(result.stream)

    def close(self) -> None:
        self.closed = True


def test_an_output_of_ones_own_needs_two_methods(cheap_model: str) -> None:
    sink = Plain()
    with Pipeline("synthetic:64x48@100", model=cheap_model, live=True, sinks=[sink]) as line:
        thread = threading.Thread(target=line.run)
        thread.start()
        line_is = threading.Event()
        line.on_start(line_is.set)
        assert line_is.wait(10)
        line.add_stream("synthetic:64x48@100", name="b", live=True)
        deadline = time.monotonic() + 10
        while "b" not in sink.names and time.monotonic() < deadline:
            time.sleep(0.01)
        line.remove_stream("b")
        line.stop()
        thread.join()
    assert "b" in sink.names and sink.closed
    assert line.outputs[0].name == "Plain"
    with pytest.raises(ConfigError, match=r"sinks: object has no method write; expected write\(result"):
        Pipeline("synthetic:64x48", model=cheap_model, sinks=[object()])


def test_a_failure_while_idle_keeps_the_other_outputs(cheap_model: str, tmp_path: Path) -> None:
    class Impatient(Plain):
        def idle(self) -> None:
            raise OSError("the window is gone")

    video = tmp_path / "out.mp4"
    options = {"model": cheap_model, "video": str(video), "pace": 2.0, "sinks": [Impatient()]}
    with pytest.raises(ExceptionGroup) as raised, Pipeline("synthetic:64x48@2", live=True, **options) as line:
        line.run()
    assert "the window is gone" in str(raised.value.exceptions)
    assert line.accounts.streams["synthetic"].ending == "failed"
    assert video.exists()


def test_keys_of_a_stream_hold_for_each(cheap_model: str) -> None:
    with Pipeline(["synthetic:64x48?frames=6"] * 2, model=cheap_model, every_nth=2) as line:
        assert len(list(line)) == 6


def test_the_summary_says_how_the_model_was_run() -> None:
    with Pipeline("sample:", max_frames=2, infer_workers=2, infer_threads=1, profile=False) as line:
        line.run()
    settings = summarize(line)["settings"]
    assert (settings["workers"], settings["threads"], settings["batch"]) == (2, 1, 1)
    # 16:9 in a model whose size is open is no square, most of it padding.
    assert (settings["input"], settings["fed"]) == ([416, 416], [[416, 256]])
