"""An output without a thread: what its sink hears, and in which order."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.sinks import Output, Sink
from tests.test_sinks_common import make_result


class Heard(Sink):
    def __init__(self, fails: bool) -> None:
        self.calls: list[str] = []
        self._fails = fails

    def write(self, result: Any, dropped_before: int) -> None:
        self.calls.append("write")

    def release(self, stream: str) -> None:
        self.calls.append(f"release {stream}")
        if self._fails:
            raise OSError("no room")

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


@pytest.mark.parametrize("fails", [False, True])
def test_a_stream_removed_last_is_released_before_the_sink_is_closed(fails: bool) -> None:
    sink, lost = Heard(fails), list[Exception]()
    output = Output("mine", sink, lost.append)
    output.put(make_result(), 0, False)
    output.release("cam")
    output.begin_end(abort=False)
    assert sink.calls == ["write", "release cam", "close"]
    assert [str(error) for error in output.errors] == ["no room"] * fails and not lost


@pytest.mark.parametrize("how", ["put", "idle"])
def test_a_sink_that_fails_at_a_release_is_lost_and_told_of_no_other(how: str) -> None:
    sink, lost = Heard(True), list[Exception]()
    output = Output("mine", sink, lost.append)
    output.release("cam")
    output.release("yard")
    for _ in range(2):
        output.idle() if how == "idle" else output.put(make_result(), 0, False)
    assert sink.calls == ["release cam"] and lost == output.errors and len(lost) == 1


def test_one_that_is_given_up_is_told_of_nothing_else() -> None:
    sink = Heard(False)
    output = Output("mine", sink, lambda _: None)
    output.release("cam")
    output.begin_end(abort=True)
    assert sink.calls == ["abort"]


def test_what_another_output_has_held_until_it_is_too_old_is_not_written() -> None:
    old = {1, 2, 4}

    class Rows(Heard):
        def write(self, result: Any, dropped_before: int) -> None:
            rows.append((result.stream, result.frame.seq, dropped_before))

    rows = list[tuple[str, int, int]]()
    output = Output("mine", Rows(False), lambda _: None, lambda result: result.frame.seq in old)
    for seq, missing in ((0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (7, 2)):
        for stream in ("a", "b"):
            output.put(make_result(stream=stream, seq=seq), missing, True)
    for stream in ("a", "b"):
        assert [row[1:] for row in rows if row[0] == stream] == [(0, 0), (3, 2), (7, 3)]
    assert output.written == {"a": 3, "b": 3} and output.dropped == {"a": 3, "b": 3}


@pytest.mark.timeout(20)
def test_the_limit_on_age_holds_between_outputs(cheap_model: str) -> None:
    class Slow(Heard):
        def write(self, result: Any, dropped_before: int) -> None:
            super().write(result, dropped_before)
            time.sleep(max(0.0, result.frame.captured_at + 0.5 - time.monotonic()))

    slow, next_one = Slow(False), Heard(False)
    with Pipeline(
        "synthetic:64x48?frames=20", model=cheap_model, sinks=[slow, next_one], max_age_ms=500
    ) as line:
        line.run()
    assert "write" in slow.calls and next_one.calls == ["close"]
    assert line.outputs[1].dropped.total() == line.accounts.totals().emitted


@pytest.mark.timeout(20)
def test_an_output_with_a_thread_has_each_result_before_one_that_takes_its_time(cheap_model: str) -> None:
    """Whatever their order is: what the emitting thread does for one makes a result older for the others."""
    came = threading.Event()

    class Slow(Heard):
        def write(self, result: Any, dropped_before: int) -> None:
            assert came.wait(10)
            came.clear()

    class Threaded(Heard):
        own_thread = True

        def write(self, result: Any, dropped_before: int) -> None:
            came.set()

    with Pipeline(
        "synthetic:64x48?frames=5", model=cheap_model, sinks=[Slow(False), Threaded(False)]
    ) as line:
        line.run()
    assert [output.written.total() for output in line.outputs] == [5, 5]
