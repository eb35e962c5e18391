"""The closing tables say all of it, whatever their width."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from pipeline import Pipeline
from pipeline.cli.common import stdout
from pipeline.config import make_config
from pipeline.console import ProgressDisplay, _waits, print_summary
from pipeline.summary import summarize
from tests.screen import Screen
from tests.servers import free_port

NAME = "the-camera-at-the-far-end-of-the-yard"


@pytest.fixture(scope="module")
def summary(cheap_model: str) -> dict[str, Any]:
    source = {"source": "synthetic:64x48?frames=60", "name": NAME, "every_nth": 3}
    with Pipeline(make_config({"streams": [source], "model": cheap_model})) as line:
        line.run()
    found = summarize(line)
    found["streams"][NAME]["seconds"] = 4.0
    found["streams"][NAME]["reconnects"] = {"timeout": 2, "ended": 1}
    found["streams"][NAME]["corrupt_packets"] = 21
    assert set(found["streams"][NAME]["state_episodes"]) == {"connecting", "live", "ended"}
    found["streams"][NAME]["state_episodes"]["stalled"] = {"times": 1, "seconds": 12.51}
    found["streams"][NAME]["health_episodes"] = {"frozen": {"times": 2, "seconds": 31.04}}
    return found


def shown(summary: dict[str, Any], **console: Any) -> str:
    out = Screen() if "force_terminal" in console else io.StringIO()
    print_summary(summary, Console(file=out, **console))
    return out.getvalue()


def test_in_a_log_nothing_is_cut_off(summary: dict[str, Any]) -> None:
    lines = shown(summary).splitlines()  # as wide as nobody said: 80
    (row,) = [line for line in lines if line.startswith(f"│ {NAME} │")]
    assert [cell.strip() for cell in row.split("│")[2:6]] == ["60", "20", "40", "5.0"]
    assert len(row) > 80 and "…" not in "".join(lines).replace("captured → emitted", "")
    assert f"{NAME} dropped: 40 capture/every_nth" in lines
    assert f"{NAME} was lost and came back: 2 timeout, 1 ended" in lines
    damage = "21 packets came damaged or not at all, 0 pictures are spoilt"
    assert f"{NAME} was damaged: {damage}" in lines
    assert f"{NAME} was frozen 2 times, for 31.0 s in all" in lines
    assert f"{NAME} was stalled once, for 12.5 s in all" in lines
    assert not [line for line in lines if line.startswith("model opened afresh")]
    again = shown(summary | {"model_restarts": 2}).splitlines()
    assert "model opened afresh 2 times after a fault of its provider" in again
    assert not [line for line in lines if f"{NAME} was live" in line or f"{NAME} was ended" in line]


def test_a_log_has_a_line_of_progress_after_5_s_and_ever_fewer_up_to_one_in_ten_minutes(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits = list(itertools.islice(_waits(), 12))
    assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600, 600, 600]
    monkeypatch.setattr("pipeline.console.PLAIN_SECONDS", 0.1)
    caplog.set_level(logging.INFO)
    source = {"source": "synthetic:64x48@25", "live": True, "pace": 25}
    with Pipeline(make_config({"streams": [source], "model": cheap_model})) as line:
        with ProgressDisplay(line, Console(file=io.StringIO()), plain=True):
            results = iter(line)
            begun = time.monotonic()
            while time.monotonic() < begun + 1:
                next(results)
        results.close()
    lines = [told for told in caplog.messages if "in flight" in told]
    assert 1 <= len(lines) <= 4  # after 0.1, 0.3 and 0.7 s, on an idle machine


def test_in_a_log_that_may_be_coloured_neither(
    summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert shown(summary, color_system=None) == shown(summary, color_system=None, force_terminal=False)
    assert stdout().width == 160  # pytest's is a file


def test_a_camera_that_was_gone_at_the_end(summary: dict[str, Any]) -> None:
    gone = {
        **summary["streams"][NAME],
        "ending": "stopped",
        "lost_for": 12.34,
        "last_error": "no data within 10 s",
    }
    lines = shown({**summary, "streams": {NAME: gone}}).splitlines()
    assert f"{NAME} had been lost for 12.3 s at the end: no data within 10 s" in lines
    assert not any("at the end" in line for line in shown(summary).splitlines())


def test_a_narrow_terminal_folds_the_name_alone(summary: dict[str, Any]) -> None:
    text = shown(summary, width=70, force_terminal=True, color_system=None)
    assert "…" not in text
    folded = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert NAME in "".join(folded)
    assert all(len(line) <= 70 for line in text.splitlines() if line[:1] in "│┏┡└")
    assert f"{NAME} dropped: 40 capture/every_nth" in text


def test_bars_of_streams_that_come_later(cheap_model: str) -> None:
    out = io.StringIO()
    endless = {"source": "synthetic:64x48@100", "name": "first", "live": True}
    with Pipeline(make_config({"streams": [endless], "model": cheap_model})) as line:
        display = ProgressDisplay(line, Console(file=out, force_terminal=True, width=100), plain=False)
        with display:
            for number, _ in enumerate(line):
                if number == 5:
                    line.add_stream("synthetic:64x48@100", name="second", live=True)
                if number == 100:
                    line.stop()
    assert "first" in out.getvalue() and "second" in out.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_terminal_that_goes_away_is_no_failure(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Neither of the line, nor of the thread that shows how it goes on; and it is left once for all."""
    raised, before = list[Any](), (sys.stdout, sys.stderr)
    monkeypatch.setattr("threading.excepthook", raised.append)
    endless = {"source": "synthetic:64x48@100", "live": True}
    ours, its = os.openpty()
    with contextlib.ExitStack() as stack:
        near = stack.enter_context(open(ours, "rb", buffering=0))
        far = open(its, "w")  # noqa: SIM115 - what it holds cannot be written any more
        stack.callback(_close_what_is_gone, far)
        with Pipeline(make_config({"streams": [endless], "model": cheap_model})) as line:
            if when == "before":
                near.close()
            display = ProgressDisplay(line, Console(file=far, force_terminal=True), plain=False)
            with display:
                for number, _ in enumerate(line):
                    if number == 5 and when == "while":
                        near.close()
                        display._thread.join(5)  # it sees so, and ends
                        assert not display._thread.is_alive()
                    if number == 10:
                        line.stop()
    assert not raised and (sys.stdout, sys.stderr) == before


def _close_what_is_gone(file: Any) -> None:
    with pytest.raises(OSError, match="Input/output"):
        file.close()


def test_why_a_stream_gave_nothing_is_said(cheap_model: str) -> None:
    gone = {"source": f"rtsp://127.0.0.1:{free_port()}/gone", "name": "gone", "backoff": 0.05}
    there = {"source": "synthetic:64x48@100", "name": "there", "live": True}
    with Pipeline(make_config({"streams": [gone, there], "model": cheap_model})) as line:
        for _ in line:
            if line.accounts.streams["gone"].link.failures:
                line.stop()
    assert "gone gave no picture: cannot open rtsp://" in shown(summarize(line), width=200)
