"""The thread that takes the results changes streams, too: it never waits for what it would have to take."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline import Pipeline
from pipeline.config import make_config
from pipeline.errors import PipelineError

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
                with pytest.raises(PipelineError, match=r"thread that takes the results: .* of its own"):
                    changes.pop()()
                assert line.accounts.streams["a"].ending is None
            line.change_stream("a", every_nth=2)  # which waits for nothing
            if account.ending == "end" and not account.counts().in_flight:
                line.remove_stream("ended")  # as this does
                break
    assert "ended" not in line.sources and line.sources["a"][1].every_nth == 2


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
