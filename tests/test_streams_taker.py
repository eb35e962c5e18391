"""The thread that takes the results changes streams, too: it never waits for what it would have to take."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline import Pipeline
from pipeline.config import make_config
from pipeline.errors import PipelineError
from pipeline.frame import Result

ENDLESS = "synthetic:64x48@100"


def until_it_waits(line: Pipeline, name: str) -> None:
    """Until whoever changes a stream has stopped it, and waits for its frames."""
    while any(thread.name == f"capture:{name}" for thread in threading.enumerate()):
        time.sleep(0.01)
    assert line.accounts.streams[name].counts().in_flight > 0


def test_whoever_takes_the_results_may_stop_a_line_whose_streams_are_changed(cheap_model: str) -> None:
    """A removal waits for frames that only the one who stops can take."""
    streams = [{"source": ENDLESS, "name": name, "live": True} for name in ("a", "b")]
    raised: list[Exception] = []

    def remove() -> None:
        try:
            line.remove_stream("a")
        except PipelineError as error:
            raised.append(error)

    with Pipeline(make_config({"model": cheap_model, "streams": streams})) as line:
        remover = threading.Thread(target=remove)
        for number, _ in enumerate(line):
            if number == 5:
                remover.start()
                until_it_waits(line, "a")
                begun = time.monotonic()
                line.stop()
                assert time.monotonic() - begun < 5  # and not the 30 s that frames may take to leave
        remover.join()
    assert not raised
    assert not line.accounts.violations(line.left_in_line())


def test_whoever_takes_the_results_cannot_wait_for_them(cheap_model: str) -> None:
    ended = {"source": "synthetic:64x48?frames=2", "name": "ended"}
    streams = [{"source": ENDLESS, "name": name, "live": True} for name in ("a", "b")]
    with Pipeline(make_config({"model": cheap_model, "streams": [*streams, ended]})) as line:
        account = line.accounts.streams["ended"]
        changes = [
            lambda: line.remove_stream("a"),
            lambda: line.pause_stream("a"),
            lambda: line.change_stream("a", open_timeout=5),
        ]
        for _ in line:
            while changes:
                with pytest.raises(PipelineError, match=r"thread that takes the results, .* of its own"):
                    changes.pop()()
                assert line.accounts.streams["a"].ending is None
            line.change_stream("a", every_nth=2)  # which waits for nothing
            if account.ending == "end" and not account.counts().in_flight:
                line.remove_stream("ended")  # as this does
                break
    assert "ended" not in line.sources and line.sources["a"][1].every_nth == 2


def test_an_output_cannot_wait_for_what_waits_for_it(cheap_model: str) -> None:
    """A file's frames wait for one that is slow, in its own thread or not."""

    class Enough:
        own_thread = True
        said: str | None = None

        def write(self, result: Result, dropped_before: int) -> None:
            if result.frame.seq <= 50:
                time.sleep(
                    0.005
                )  # slower than the file, of which the line and its output hold some 500 frames
            if result.stream == "file" and result.frame.seq == 50:
                try:
                    line.remove_stream("file")
                except PipelineError as error:
                    self.said = str(error)

        def close(self) -> None:
            pass

    sink = Enough()
    streams = [{"source": "synthetic:64x48?frames=1000", "name": "file"}]
    with Pipeline(make_config({"model": cheap_model, "streams": streams}), sinks=[sink]) as line:
        begun = time.monotonic()
        line.run()
        assert time.monotonic() - begun < 15  # and not the 30 s that frames may take to leave
    assert "or writes them: its frames have to leave the line first" in (sink.said or "")
    assert line.accounts.streams["file"].counts().emitted == 1000


def test_what_is_called_at_the_start_cannot_wait_for_frames_either(cheap_model: str) -> None:
    """It is called in the thread that will take them."""
    said: list[str] = []

    def pause() -> None:
        while not line.accounts.streams["file"].counts().in_flight:
            time.sleep(0.01)
        try:
            line.pause_stream("file")
        except PipelineError as error:
            said.append(str(error))

    streams = [{"source": "synthetic:64x48?frames=500", "name": "file"}]
    with Pipeline(make_config({"model": cheap_model, "streams": streams})) as line:
        line.on_start(pause)
        line.run()
    assert len(said) == 1 and "in the thread that takes the results" in said[0]
    assert line.accounts.streams["file"].counts().emitted == 500


def test_whoever_takes_the_results_does_not_wait_for_anothers_change(cheap_model: str) -> None:
    streams = [{"source": ENDLESS, "name": name, "live": True} for name in ("a", "b")]
    with Pipeline(make_config({"model": cheap_model, "streams": streams})) as line:
        remover = threading.Thread(target=lambda: line.remove_stream("a"))
        changes = [
            lambda: line.add_stream(ENDLESS, name="c", live=True),
            lambda: line.pause_stream("b"),
            lambda: line.reload_model(conf_threshold=0.3),
        ]
        for number, _ in enumerate(line):
            if number == 5:
                remover.start()
                until_it_waits(line, "a")
                while changes:
                    with pytest.raises(PipelineError, match="another change of the line is under way"):
                        changes.pop()()
            elif number > 5 and not remover.is_alive():
                line.add_stream(ENDLESS, name="c", live=True)
                break
        remover.join()
        assert list(line.sources) == ["b", "c"]
