"""Outputs that fail, block or are slow: the others and all detection go on, what one missed is counted."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.signals import decoded, in_whole_fragments
from pipeline import Pipeline, make_config
from pipeline.errors import SinkWriteError
from pipeline.frame import Result
from pipeline.sinks import JsonLines, Sink
from pipeline.sinks import handoff as module
from pipeline.sinks.handoff import HandOff
from pipeline.sinks.output import Output
from pipeline.summary import summarize
from tests.test_sinks_common import make_result

FILE, LIVE = "synthetic:64x48?frames=400", "synthetic:64x48@200"
LARGE = "synthetic:1280x720?frames=60"
"""Pictures of which twenty-three wait for an output; of small ones it is sixty-four."""


class Kept(Sink):
    """Keeps what it is given, in the thread that emits."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.ended = ""

    def write(self, result: Result, dropped_before: int) -> None:
        self.seen.append(result.frame.seq)

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Gate(Kept):
    """Takes a result only when the test lets it: a disk that hangs."""

    kind = "gate"
    own_thread = True

    def __init__(self, fail_at: int | None = None, fails: type[BaseException] = SinkWriteError) -> None:
        super().__init__()
        self.open, self.entered = threading.Event(), threading.Event()
        self.rows: list[tuple[str, int, int]] = []
        self.threads: set[str] = set()
        self._fail_at, self._fails = fail_at, fails

    def write(self, result: Result, dropped_before: int) -> None:
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        self.open.wait(20)
        if len(self.rows) == self._fail_at:
            raise self._fails("no space left")
        self.rows.append((result.stream, result.frame.seq, dropped_before))


@pytest.fixture
def gate() -> Iterator[Gate]:
    """One that is opened at the end, so that no thread is left."""
    made = Gate()
    yield made
    made.open.set()


def assert_books(line: Pipeline, *, taken: dict[str, int] | None = None) -> None:
    """Each output: given = written + dropped, for each stream."""
    for output in line.outputs:
        for name, account in line.accounts.streams.items():
            given = output.written[name] + output.dropped[name]
            assert given == account.counts().emitted, (output.name, given)
        if taken is not None and output.name in taken:
            assert output.written.total() == taken[output.name]


def assert_no_thread_is_left() -> None:
    assert not [each.name for each in threading.enumerate() if each.name.startswith("sink:")]


# What becomes of the results -----------------------------------------------------------------


class Releasing(Gate):
    def release(self, stream: str) -> None:
        if stream == "bad":
            raise SinkWriteError("its file cannot be finished")
        self.threads.add(threading.current_thread().name)
        self.rows.append((f"{stream} is gone", -1, 0))


def test_a_removed_stream_is_told_of_after_all_of_it() -> None:
    """In the thread that writes; what comes of other streams, or of it later, is in order."""
    gate, lost = Releasing(), list[Exception]()
    output = HandOff("gate", gate, lost.append)
    output.start()
    picture = np.zeros((8, 8, 3), np.uint8)
    for seq in range(5):
        for stream in ("a", "b"):
            output.put(make_result(picture, seq=seq, stream=stream), 0, True)
    output.release("a")
    output.put(make_result(picture, seq=5, stream="a"), 0, True)
    gate.open.set()
    output.begin_end(abort=False)
    output.end()
    of_a = [row[:2] for row in gate.rows if row[0].startswith("a")]
    assert of_a == [*(("a", seq) for seq in range(5)), ("a is gone", -1), ("a", 5)]
    assert gate.threads == {"sink:gate"}
    assert (output.written, output.dropped.total()) == ({"a": 6, "b": 5}, 0) and not lost


def test_an_output_is_lost_where_it_cannot_finish_what_it_holds() -> None:
    for kind in (HandOff, Output):
        gate, lost = Releasing(), list[Exception]()
        gate.open.set()
        output = kind("gate", gate, lost.append)
        output.start()
        output.release("good")
        output.idle()
        output.release("bad")
        output.idle()
        deadline = time.monotonic() + 5
        while not lost and time.monotonic() < deadline:
            time.sleep(0.01)
        output.put(make_result(np.zeros((8, 8, 3), np.uint8)), 0, True)
        output.begin_end(abort=False)
        output.end()
        assert [str(error) for error in lost] == ["its file cannot be finished"]
        assert [row[0] for row in gate.rows] == ["good is gone"]
        assert (output.written.total(), output.dropped.total()) == (0, 1)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("seed", range(20))
def test_what_is_dropped_is_in_the_next_dropped_before(seed: int) -> None:
    """Live streams and files at random, some frames missing already: for each stream, what came before its
    last written result is either written or in a ``dropped_before``; files lose nothing."""

    class Permitted(Gate):
        def write(self, result: Result, dropped_before: int) -> None:
            permits.acquire()
            super().write(result, dropped_before)

    choose, permits = random.Random(seed), threading.Semaphore(0)
    gate, lost = Permitted(), list[Exception]()
    gate.open.set()
    output = HandOff("gate", gate, lost.append)
    output.start()
    seq: Counter[str] = Counter()
    picture = np.zeros((720, 1280, 3), np.uint8)
    for _ in range(300):
        stream = choose.choice(("live1", "live1", "live2", "file"))
        if stream == "file" and choose.random() < 0.5:
            permits.release(60)  # it may have to wait for room
        elif stream == "file":
            continue
        missing = choose.choice((0, 0, 2))
        seq[stream] += missing + 1
        output.put(make_result(picture, seq=seq[stream] - 1, stream=stream), missing, stream != "file")
    permits.release(1000)
    output.begin_end(abort=False)
    output.end()
    assert not lost and gate.ended == "closed"
    for stream in seq:
        rows = [row for row in gate.rows if row[0] == stream]
        assert [row[1] for row in rows] == sorted(row[1] for row in rows)
        assert sum(1 + row[2] for row in rows) == rows[-1][1] + 1
        assert rows[-1][1] == seq[stream] - 1  # the freshest one is kept
        assert output.written[stream] == len(rows)
    assert output.dropped["live1"] > 0 and output.dropped["file"] == 0
    assert_no_thread_is_left()


@pytest.mark.timeout(30)
def test_a_blocked_output_holds_up_no_live_stream(cheap_model: str, gate: Gate, caplog: Any) -> None:
    other = Kept()
    with Pipeline(_live(LIVE, cheap_model), sinks=[gate, other]) as line:
        for number, _ in enumerate(line):
            if number == 250:  # long after all that can wait is full
                assert line.outputs[0].dropped.total() > 0 and not gate.rows
                gate.open.set()
                line.stop()
    assert other.seen and len(other.seen) == line.accounts.totals().emitted
    assert gate.ended == other.ended == "closed"
    assert gate.threads == {"sink:gate"}
    assert sum(1 + before for _, _, before in gate.rows) == gate.rows[-1][1] + 1
    assert line.outputs[0].dropped.total() >= 250 - 64 - 2
    assert "output gate is too slow" in caplog.text and caplog.text.count("too slow") == 1
    assert summarize(line)["outputs"]["gate"]["dropped"]["cam"] == line.outputs[0].dropped["cam"]
    assert_books(line)
    assert_no_thread_is_left()


def _live(source: str, model: str, **options: Any) -> Any:
    return make_config(
        {"streams": [{"source": source, "live": True, "name": "cam"}], "model": model, **options}
    )


@pytest.mark.timeout(30)
def test_a_file_waits_for_a_slow_output_and_loses_nothing(cheap_model: str, tmp_path: Path) -> None:
    fifo, reader = _fifo(tmp_path)
    read: list[bytes] = []

    def slowly() -> None:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while data := pipe.read(700):
                read.append(data)

    thread = threading.Thread(target=slowly)
    with Pipeline(FILE, model=cheap_model, jsonl=str(fifo)) as line:
        thread.start()
        line.run()
    thread.join()
    lines = [json.loads(each) for each in b"".join(read).splitlines()]
    assert [each["frame"] for each in lines] == list(range(400))
    assert not any(each["dropped_before"] for each in lines)
    assert_books(line, taken={"jsonl": 400})


def _fifo(tmp_path: Path) -> tuple[Path, int]:
    """A named pipe of one page with a reader that does not read."""
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    return fifo, reader


@pytest.mark.timeout(30)
def test_a_file_does_not_wait_for_ever_for_one_of_several_outputs(cheap_model: str, gate: Gate) -> None:
    other = Kept()
    options = {"model": cheap_model, "sinks": [gate, other], "sink_timeout": 0.3, "on_sink_error": "go_on"}
    line = Pipeline(LARGE, **options)
    with pytest.raises(ExceptionGroup) as raised, line:
        line.run()
    assert len(other.seen) == 60
    (error,) = raised.value.exceptions
    assert re.match(r"output gate made no progress for \d s and was given up with \d+ results", str(error))
    assert_books(line)
    (left,) = (each for each in threading.enumerate() if each.name == "sink:gate")
    gate.open.set()
    left.join(10)
    assert gate.ended == "closed"  # by itself, where it does go on after all


@pytest.mark.timeout(30)
@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("frames", [5, 60])
@pytest.mark.parametrize("policy", ["end", "go_on"])
def test_the_line_ends_without_one_of_several_outputs_that_never_goes_on(
    cheap_model: str, gate: Gate, caplog: Any, policy: str, frames: int, live: bool
) -> None:
    """Whether it was lost on the way, or what waits for it at the end still fits (5 frames, or live ones)."""
    other = Kept()
    source = {"source": f"synthetic:1280x720?frames={frames}", "live": live}
    options = {"model": cheap_model, "sink_timeout": 0.3, "on_sink_error": policy}
    line = Pipeline(make_config({"streams": [source], **options}), sinks=[gate, other])
    with pytest.raises(ExceptionGroup) as raised, line:
        line.run()
    assert not gate.open.is_set()
    (error,) = raised.value.exceptions
    assert re.match(r"output gate made no progress for \d s and was given up with \d+ results", str(error))
    assert "output gate does not answer and is left behind" in caplog.text
    if policy == "go_on" or frames == 5:
        assert len(other.seen) == line.accounts.totals().emitted
    assert other.ended == "closed"
    assert_books(line)
    assert not line.accounts.violations(line.left_in_line())


@pytest.mark.timeout(30)
def test_one_that_failed_and_does_not_close_is_left_behind(cheap_model: str, monkeypatch: Any) -> None:
    """Though it is the only one, which is waited for as long as it works."""

    class Blocks(Gate):
        def close(self) -> None:
            go_on.wait(20)

    go_on = threading.Event()
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)
    bad = Blocks(fail_at=3)
    bad.open.set()
    line = Pipeline(FILE, model=cheap_model, sinks=[bad], on_sink_error="go_on")
    with pytest.raises(ExceptionGroup) as raised, line:
        line.run()
    assert not go_on.is_set()
    go_on.set()
    assert [str(each) for each in raised.value.exceptions] == ["no space left"]
    assert line.accounts.totals().emitted == 400
    assert_books(line, taken={"gate": 3})


@pytest.mark.timeout(30)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("raises", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_ones_close_leaves_no_other_unfinished(
    cheap_model: str, tmp_path: Path, raises: type[BaseException], first: bool
) -> None:
    class Interrupted(Kept):
        def close(self) -> None:
            raise raises

    other, slow, path = Kept(), Gate(), tmp_path / "out.jsonl"
    slow.open.set()
    sinks: list[Sink] = [other, slow, JsonLines(str(path))]
    sinks.insert(0 if first else 3, Interrupted())
    line = Pipeline(FILE, model=cheap_model, sinks=sinks)
    with pytest.raises(raises), line:
        line.run()
    assert other.ended == slow.ended == "closed"
    assert len(slow.rows) == len(other.seen) == len(path.read_text().splitlines()) == 400
    assert_books(line)
    assert_no_thread_is_left()


@pytest.mark.timeout(30)
def test_the_only_output_is_waited_for(cheap_model: str, gate: Gate) -> None:
    threading.Timer(1, gate.open.set).start()
    with Pipeline(LARGE, model=cheap_model, sinks=[gate], sink_timeout=0.2) as line:
        line.run()
    assert len(gate.rows) == 60


# Files wait at their own source --------------------------------------------------------------

SMALL = np.zeros((8, 8, 3), np.uint8)


def filled(output: HandOff, gate: Gate, live: bool, count: int) -> None:
    """Start it; give it a result to hang at, then so many that wait."""
    output.start()
    output.put(make_result(SMALL), 0, live)
    assert gate.entered.wait(10)
    for seq in range(1, count + 1):
        output.put(make_result(SMALL, seq=seq), 0, live)


def waiting(output: HandOff) -> tuple[threading.Event, threading.Thread]:
    """A file that waits for room, in a thread of its own, and what stops it."""
    stop, before = threading.Event(), len(output._waits)
    thread = threading.Thread(target=output.wait_for_room, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 10
    while len(output._waits) == before:
        assert time.monotonic() < deadline and thread.is_alive()
        time.sleep(0.001)
    return stop, thread


@pytest.mark.timeout(20)
def test_who_brings_a_file_s_result_never_waits_and_nothing_is_lost(gate: Gate) -> None:
    output = HandOff("gate", gate, lambda _: None)
    filled(output, gate, live=False, count=3 * module.MOST_CAPACITY)
    gate.open.set()
    output.begin_end(abort=False)
    output.end()
    assert [row[1] for row in gate.rows] == list(range(3 * module.MOST_CAPACITY + 1))
    assert output.dropped.total() == 0


@pytest.mark.timeout(20)
def test_files_wait_until_there_is_room_or_they_are_stopped(gate: Gate) -> None:
    """Each by itself."""
    output = HandOff("gate", gate, lambda _: None)
    filled(output, gate, live=False, count=module.MOST_CAPACITY - 1)
    output.wait_for_room(threading.Event())  # there is
    assert output.waited() is None
    output.put(make_result(SMALL, seq=module.MOST_CAPACITY), 0, False)
    (stop, stopped), (_, other) = waiting(output), waiting(output)
    assert output.waited() is not None
    stop.set()
    output.look_again()
    stopped.join(10)
    assert not stopped.is_alive() and other.is_alive() and len(output._waits) == 1
    gate.open.set()
    other.join(10)
    assert not other.is_alive() and output.waited() is None
    output.begin_end(abort=False)
    output.end()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("ends", ["cancelled", "failed", "stuck", "hurried"])
def test_what_ends_the_output_lets_all_files_go(monkeypatch: Any, ends: str) -> None:
    """And it is lost once, however many find it stuck."""
    gate, lost = Gate(fail_at=0), list[Exception]()
    if ends == "hurried":
        monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)
    output = HandOff("gate", gate, lost.append, 0.3 if ends == "stuck" else None)
    filled(output, gate, live=False, count=module.MOST_CAPACITY)
    # Where it is stuck the later ones may find it lost already: they do not wait at all.
    files = [threading.Thread(target=output.wait_for_room, args=(threading.Event(),)) for _ in range(4)]
    for file in files:
        file.start()
    {
        "cancelled": output.wake,
        "failed": gate.open.set,
        "stuck": lambda: None,
        "hurried": output.hurry,
    }[ends]()
    for file in files:
        file.join(10)
        assert not file.is_alive()
    assert len(lost) == (ends != "cancelled")
    if ends in ("stuck", "hurried"):
        assert re.match(
            r"output gate made no progress for 0 s and was given up with 64 results", str(lost[0])
        )
    gate.open.set()
    output.begin_end(abort=True)
    output.end()


@pytest.mark.timeout(20)
def test_live_results_and_files_leave_each_other_half_the_room(gate: Gate) -> None:
    """A camera that is faster than the output would keep all of it for good, and no file would go on."""
    output = HandOff("gate", gate, lambda _: None)
    filled(output, gate, live=True, count=5 * module.MOST_CAPACITY)
    files = 0
    while output._has_room():
        output.wait_for_room(threading.Event())
        output.put(make_result(SMALL, stream="file", seq=files), 0, False)
        files += 1
    assert files == module.MOST_CAPACITY // 2
    last = 5 * module.MOST_CAPACITY + 1
    output.put(make_result(SMALL, seq=last), 0, True)  # for an older one, however full it is
    waits = [(item.stream, item.result.frame.seq) for item in output._items if item.result is not None]
    assert waits[-1][1] == last and len(waits) == module.MOST_CAPACITY + files
    gate.open.set()
    output.begin_end(abort=False)
    output.end()
    assert output.dropped["file"] == 0 and output.written["file"] == files
    live = [row for row in gate.rows if row[0] != "file"]
    assert sum(1 + before for _, _, before in live) == last + 1


@pytest.mark.timeout(30)
def test_a_file_that_waits_for_an_output_holds_up_no_live_stream(cheap_model: str, gate: Gate) -> None:
    """One of two outputs hangs: at the other one the live stream is as fresh, and as whole, as ever."""

    class Other(Kept):
        own_thread = True

        def write(self, result: Result, dropped_before: int) -> None:
            if result.stream == "live" and line.waited_for:
                ages.append(time.monotonic() - result.frame.captured_at)
                if len(ages) == 100:
                    enough.set()

    ages, enough = list[float](), threading.Event()
    live = {"source": LIVE, "name": "live", "live": True}
    file = {"source": "synthetic:64x48", "name": "file"}
    config = make_config({"streams": [live, file], "model": cheap_model, "sink_timeout": None})
    with Pipeline(config, sinks=[gate, Other()]) as line:
        runs = threading.Thread(target=line.run)
        runs.start()
        came = enough.wait(10)
        waited, counts = line.waited_for, line.accounts.streams["live"].counts()
        gate.open.set()
        line.stop()
        runs.join(15)
    assert came and list(waited) == ["gate"]
    assert sorted(ages)[50] < 0.5  # as long as the output hung it would be seconds
    assert counts.dropped_total < counts.emitted / 2  # none, but for a machine that is busy elsewhere
    hung, other = line.outputs
    assert hung.dropped["file"] == other.dropped.total() == 0
    assert_books(line)


@pytest.mark.timeout(30)
def test_what_waits_of_a_file_is_bounded(cheap_model: str) -> None:
    """The capacity, and what channels and stages hold of it when that is reached."""

    class Slow(Kept):
        own_thread = True
        most = 0

        def write(self, result: Result, dropped_before: int) -> None:
            self.most = max(self.most, 1 + len(line.outputs[0]._items))
            time.sleep(0.01)
            super().write(result, dropped_before)

    slow = Slow()
    with Pipeline("synthetic:1280x720?frames=150", model=cheap_model, sinks=[slow]) as line:
        line.run()
        channels = sum(each.capacity for each in line.flow.statistics())
    assert slow.seen == list(range(150))
    # As much again in the hands of those who take from them, and one frame in the capture's.
    assert 23 <= slow.most <= 23 + 2 * channels + 1 < 150


def until_waited_for(line: Pipeline) -> None:
    deadline = time.monotonic() + 10
    while not line.waited_for:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("change", ["pause_stream", "remove_stream"])
def test_a_file_that_waits_for_an_output_may_be_stopped(cheap_model: str, gate: Gate, change: str) -> None:
    live = {"source": LIVE, "name": "live", "live": True}
    file = {"source": "synthetic:64x48", "name": "file"}
    config = make_config({"streams": [live, file], "model": cheap_model})
    with Pipeline(config, sinks=[gate]) as line:
        runs = threading.Thread(target=line.run)
        runs.start()
        until_waited_for(line)
        begun = time.monotonic()
        getattr(line, change)("file")  # PipelineError where its frames do not leave
        assert time.monotonic() - begun < 5 and not gate.rows
        counts = line.accounts.streams["file"].counts()
        assert counts.captured == counts.emitted and not line.waited_for
        if change == "pause_stream":
            line.resume_stream("file")
            until_waited_for(line)  # with its first frame in hand
            assert line.accounts.streams["file"].counts() == counts
        gate.open.set()
        line.stop()
        runs.join(15)
    assert_books(line)


# What grows too old while it waits -----------------------------------------------------------


class Clocked(Gate):
    """Each result takes it some time, by a clock that goes on in it alone; what is 10 old is too old."""

    def __init__(self, seconds: Iterator[int]) -> None:
        super().__init__()
        self.now, self.permits = 0, threading.Semaphore(0)
        self.too_old: list[int] = []
        self._seconds = seconds
        self.open.set()

    def expired(self, result: Result) -> bool:
        return self.now - result.frame.captured_at > 10

    def write(self, result: Result, dropped_before: int) -> None:
        if self.expired(result):
            self.too_old.append(result.frame.seq)
        super().write(result, dropped_before)
        self.permits.acquire()
        self.now += next(self._seconds)

    def release(self, stream: str) -> None:
        self.rows.append((f"{stream} is gone", -1, 0))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_sink_is_given_nothing_too_old_and_what_it_misses_is_counted(seed: int, abort: bool) -> None:
    """Live streams and a file, streams that go and come again, a queue that is full or empty."""
    choose = random.Random(seed)
    gate = Clocked(iter(lambda: choose.choice((0, 0, 1, 3, 30)), None))
    output = HandOff("gate", gate, lambda _: None, None, gate.expired)
    output.start()
    captured, put, gone = Counter[str](), Counter[str](), Counter[str]()
    picture = np.zeros((720, 1280, 3), np.uint8)
    order = random.Random(-seed - 1)
    for _ in range(400):
        stream = order.choice(("live1", "live1", "live2", "file"))
        missing = order.choice((0, 0, 2))
        captured[stream] += missing + 1
        result = make_result(picture, seq=captured[stream] - 1, stream=stream, captured_at=gate.now)
        output.put(result, missing, stream != "file")
        put[stream] += 1
        if order.random() < 0.05:
            output.release(stream)
            gone[stream] += 1
        if order.random() < 0.4:
            gate.permits.release(2)
    if not abort:
        gate.permits.release(1000)
    output.begin_end(abort)
    gate.permits.release(1000)
    output.end()
    assert not gate.too_old and not output.errors and gate.ended == ("aborted" if abort else "closed")
    for stream, count in put.items():
        rows = [row for row in gate.rows if row[0] == stream]
        assert output.written[stream] == len(rows) and len(rows) + output.dropped[stream] == count
        seen = -1
        for _, seq, before in rows:
            assert seq == seen + 1 + before
            seen = seq
        if not abort:
            assert gate.rows.count((f"{stream} is gone", -1, 0)) == gone[stream]
    assert abort or output.dropped["file"] > 0  # which nothing but age can cost


def emptied_by_age(gate: Gate, output: HandOff, old: set[int], live: bool) -> None:
    """The sink is held up while all that waits for it, frames 1 to 64, grows old; then it goes on."""
    filled(output, gate, live, module.MOST_CAPACITY)
    old.update(range(1, module.MOST_CAPACITY + 1))
    gate.open.set()
    until(lambda: output.written["cam1"] + output.dropped["cam1"] == module.MOST_CAPACITY + 1)


def until(holds: Any) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("live", [True, False])
def test_a_sink_whose_queue_age_has_emptied_has_not_caught_up(gate: Gate, caplog: Any, live: bool) -> None:
    """It has where it ends a call with nothing left to do."""
    old = set[int]()
    output = HandOff("gate", gate, lambda _: None, None, lambda result: result.frame.seq in old)
    emptied_by_age(gate, output, old, live)
    until(lambda: not output._busy)
    assert [row[1] for row in gate.rows] == [0] and output.dropped == {"cam1": module.MOST_CAPACITY}
    assert caplog.text.count("is too slow") == 1 and "caught up" not in caplog.text
    output.put(make_result(SMALL, seq=module.MOST_CAPACITY + 1), 0, live)
    until(lambda: "caught up; it missed 64 results" in caplog.text)
    assert gate.rows[1:] == [("cam1", module.MOST_CAPACITY + 1, module.MOST_CAPACITY)]
    output.begin_end(abort=False)
    output.end()


@pytest.mark.timeout(20)
def test_room_that_age_makes_is_told_to_files_that_wait(gate: Gate) -> None:
    old = set(range(1, module.MOST_CAPACITY + 1))
    output = HandOff("gate", gate, lambda _: None, None, lambda result: result.frame.seq in old)
    filled(output, gate, live=False, count=module.MOST_CAPACITY)
    (_, one), (_, other) = waiting(output), waiting(output)
    gate.open.set()
    for file in (one, other):
        file.join(10)
        assert not file.is_alive()
    assert output.waited() is None and len(gate.rows) == 1 and not output.errors
    output.begin_end(abort=False)
    output.end()


@pytest.mark.timeout(20)
def test_an_output_is_not_blamed_for_what_came_too_old(gate: Gate, caplog: Any) -> None:
    """It had nothing to do, and took it at once: the line was slow."""
    gate.open.set()
    output = HandOff("gate", gate, lambda _: None, None, lambda result: result.frame.seq < 3)
    output.start()
    for seq in range(3):
        output.put(make_result(SMALL, seq=seq), 0, True)
        until(lambda seq=seq: output.dropped["cam1"] == seq + 1)
    output.put(make_result(SMALL, seq=3), 0, True)
    output.begin_end(abort=False)
    output.end()
    assert gate.rows == [("cam1", 3, 3)] and not caplog.text


@pytest.mark.timeout(20)
def test_the_limit_on_age_holds_behind_outputs(cheap_model: str) -> None:
    """A file whose results all wait for an output until it has taken the first one; the other takes all."""

    class Late(Kept):
        own_thread = True

        def write(self, result: Result, dropped_before: int) -> None:
            until(lambda: line.accounts.totals().captured == 20 and not line.accounts.totals().in_flight)
            time.sleep(0.5)
            super().write(result, dropped_before)

    late, other = Late(), Kept()
    with Pipeline(
        "synthetic:64x48?frames=20", model=cheap_model, sinks=[late, other], max_age_ms=500
    ) as line:
        line.run()
    emitted = line.accounts.totals().emitted
    assert len(late.seen) == 1 and len(other.seen) == emitted > 1
    assert summarize(line)["outputs"]["Late"]["dropped"] == {"synthetic": emitted - 1}
    assert_books(line)


# One that fails ------------------------------------------------------------------------------


@pytest.mark.timeout(30)
@pytest.mark.parametrize("own_thread", [True, False])
@pytest.mark.parametrize("fails", [SinkWriteError, ZeroDivisionError])
@pytest.mark.parametrize("at", [0, 30])
def test_the_line_goes_on_without_an_output_where_asked(
    cheap_model: str, caplog: Any, at: int, fails: type[Exception], own_thread: bool
) -> None:
    bad, other = Gate(fail_at=at, fails=fails), Kept()
    bad.open.set()
    bad.own_thread = own_thread
    line = Pipeline(LARGE, model=cheap_model, sinks=[bad, other], on_sink_error="go_on")
    with pytest.raises(ExceptionGroup) as raised, line:
        assert len(list(line)) == 60
    assert [type(error) for error in raised.value.exceptions] == [fails]
    assert other.seen == list(range(60)) and other.ended == bad.ended == "closed"
    assert line.accounts.totals().emitted == 60
    assert_books(line, taken={"gate": at, "Kept": 60})
    assert "output gate is lost, the line goes on without it" in caplog.text
    assert summarize(line)["outputs"]["gate"]["error"] == "no space left"
    assert_no_thread_is_left()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("fails", [SinkWriteError, SystemExit])
def test_an_output_that_is_lost_in_its_own_thread_ends_the_run(
    cheap_model: str, fails: type[BaseException]
) -> None:
    bad, other = Gate(fail_at=3, fails=fails), Kept()
    bad.open.set()
    line = Pipeline("synthetic:64x48", model=cheap_model, sinks=[bad, other])
    with pytest.raises(ExceptionGroup) as raised, line:
        line.run()
    (error,) = raised.value.exceptions
    assert "no space left" in str(error) and error.__notes__ == ["raised in stage 'emit'"]
    assert other.ended == "closed" and len(bad.rows) == 3
    assert line.accounts.violations(line.left_in_line()) == []
    assert_no_thread_is_left()


# The end -------------------------------------------------------------------------------------


@pytest.mark.timeout(30)
def test_a_stuck_output_does_not_hold_up_the_stop(
    cheap_model: str, gate: Gate, monkeypatch: Any, caplog: Any
) -> None:
    """A file's frame waits for it when the line is asked to stop; and it is the only output."""
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)
    line = Pipeline("synthetic:1280x720", model=cheap_model, sinks=[gate])

    def stop() -> None:
        gate.entered.wait(10)
        line.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with caplog.at_level(logging.WARNING), pytest.raises(ExceptionGroup) as raised, line:
        line.run()
    stopper.join()
    assert "made no progress" in str(raised.value.exceptions[0])
    assert "is left behind" in caplog.text
    assert line.accounts.violations(line.left_in_line()) == []
    (thread,) = [each for each in threading.enumerate() if each.name == "sink:gate"]
    gate.open.set()
    thread.join(10)
    assert not thread.is_alive() and gate.ended == "closed"  # what it has is finished all the same


@pytest.mark.timeout(30)
def test_cancelling_lets_a_waiting_frame_go(cheap_model: str, gate: Gate, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "ABORT_GRACE_SECONDS", 0.2)
    line = Pipeline("synthetic:1280x720", model=cheap_model, sinks=[gate])
    canceller = threading.Thread(target=lambda: (gate.entered.wait(10), line.cancel()))
    canceller.start()
    with pytest.raises(ExceptionGroup), line:
        line.run()
    canceller.join()
    gate.open.set()
    for thread in threading.enumerate():
        if thread.name == "sink:gate":
            thread.join(10)
    assert gate.ended == "aborted"
    assert line.accounts.violations(line.left_in_line()) == []


def test_sinks_of_a_line_that_never_ran_are_closed_in_their_maker_s_thread(
    cheap_model: str, gate: Gate
) -> None:
    with Pipeline(FILE, model=cheap_model, sinks=[gate]):
        pass
    assert gate.ended == "closed"
    assert_no_thread_is_left()


def test_lines_are_written_in_a_thread_and_finished_before_the_line_ends(
    cheap_model: str, tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    with Pipeline(FILE, model=cheap_model, jsonl=str(path)) as line:
        line.run()
        lines = [json.loads(each) for each in path.read_text().splitlines()]
        assert [each["frame"] for each in lines] == list(range(400))
        assert all("emit" not in each["latency_ms"] for each in lines)
    assert JsonLines.own_thread


@pytest.mark.timeout(20)
def test_even_a_sink_that_exits_when_it_is_closed_ends(cheap_model: str) -> None:
    class Exits(Gate):
        def close(self) -> None:
            raise SystemExit("gone")

    sink = Exits()
    sink.open.set()
    with (
        pytest.raises(ExceptionGroup) as raised,
        Pipeline(FILE, model=cheap_model, sinks=[sink]) as line,
    ):
        line.run()
    assert str(raised.value.exceptions[0]) == "SystemExit: gone"
    assert_no_thread_is_left()


# A disk that is really full ------------------------------------------------------------------

FULL_DISK = """
set -e
mount -t tmpfs -o size=64k tmpfs "$2"
set +e
cd "$1"
"$3" -m pipeline run 'synthetic:320x240?frames=1200' --model "$4" --jsonl kept.jsonl --video "$2/v.mp4" \
    --summary s.json --on-sink-error "$5" 2> err.txt
echo $? > code
cp -a "$2"/. "$1"/full/
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("policy", ["end", "go_on"])
def test_a_disk_that_is_full_costs_its_own_output_only(cheap_model: str, tmp_path: Path, policy: str) -> None:
    """A small file system of our own, mounted in a user namespace."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("needs unshare, and user namespaces allowed to users")
    mount = tmp_path / "mount"
    mount.mkdir()
    (tmp_path / "full").mkdir()
    subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL_DISK, "sh", tmp_path, mount, sys.executable, cheap_model, policy],
        check=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    said = (tmp_path / "err.txt").read_text()
    assert (tmp_path / "code").read_text() == "4\n", said
    assert "no space left on the device" in said and "Traceback" not in said
    summary = json.loads((tmp_path / "s.json").read_text())
    lines = [json.loads(each) for each in (tmp_path / "kept.jsonl").read_text().splitlines()]
    (stream,) = summary["streams"].values()
    assert summary["conserved"] is True
    assert len(lines) == stream["emitted"] and (stream["emitted"] == 1200) is (policy == "go_on")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["v.mp4.part"]
    part = tmp_path / "full" / "v.mp4.part"
    assert decoded(part)[0] == in_whole_fragments(part.read_bytes()) > 0
    assert "no space left" in summary["outputs"]["video"]["error"]


def test_the_largest_pictures_bound_what_waits(gate: Gate) -> None:
    """Also where those of another stream, which came first, are small."""
    output = HandOff("gate", gate, lambda _: None)
    output.start()
    output.put(make_result(stream="small"), 0, True)
    assert gate.entered.wait(10)
    large = np.zeros((1080, 1920, 3), np.uint8)
    for seq in range(40):
        output.put(make_result(large, stream="large", seq=seq), 0, True)
    assert len(output._items) == module.BYTES // large.nbytes
    gate.open.set()
    output.begin_end(abort=False)
    output.end()
