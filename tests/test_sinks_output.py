"""An output without a thread: what its sink hears, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

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
