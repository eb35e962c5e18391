"""The benchmark of ages: its arithmetic on trials that are made up, and a short run of the real line."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cheap_model import write_cheap_model
from benchmarks.live import ABOVE, BELOW, WINDOWS, Asked, growth, ideal_ms, limits, main, table


def found(ages, given, memory=(100.0,), p99=None, conserved=True):
    return {
        "latency_ms": {"p99": p99 or max(ages)},
        "streams": {str(number): {"fps": fps} for number, fps in enumerate(given)},
        "over_time": [
            {"p99_latency_ms": age, "infer_ms": None, "peak_mb": memory[min(number, len(memory) - 1)]}
            for number, age in enumerate(ages)
        ],
        "conserved": conserved,
    }


def of(below, above):
    """Two trials, as ``limits`` wants them."""
    return {"70%, 2 streams": below | {"share": BELOW}, "400%, 2 streams": above | {"share": ABOVE}}


FLAT = (100.0,) * WINDOWS


@pytest.mark.parametrize(
    ("below", "above", "broken"),
    [
        ({}, {}, []),
        ({"p99": 101.0}, {}, ["p99 age ÷ service times at 70%, 2 streams"]),
        ({}, {"p99": 151.0}, ["p99 age ÷ service times at 400%, 2 streams"]),
        ({}, {"ages": (100.0,) * 8 + (112.0,) * 4}, ["growth of p99 age"]),
        ({}, {"ages": (100.0,) * 11 + (140.0,)}, []),  # one bad moment is not growth
        ({}, {"memory": (100.0,) * 11 + (106.0,)}, ["growth of memory"]),
        ({}, {"given": (5.0, 6.1, 5.5)}, ["delivered, most ÷ least of a stream"]),
        ({}, {"given": (5.0, 0.0)}, ["delivered, most ÷ least of a stream"]),
        ({"conserved": False}, {}, ["runs with frames unaccounted for"]),
        ({}, {"conserved": False}, ["runs with frames unaccounted for"]),
    ],
)
def test_each_limit_is_broken_by_what_it_is_for(below, above, broken):
    usual = {"ages": FLAT, "given": (5.0, 5.9), "p99": 99.0}
    rows = limits(50.0, of(found(**{**usual, **below}), found(**{**usual, **above})))
    assert [row["what"] for row in rows if not row["holds"]] == broken


def test_where_a_limit_is_set_no_result_is_older():
    above = found(FLAT, (5.0, 5.0), p99=99.0)
    for oldest, holds in ((149.0, True), (152.0, True), (155.0, False)):
        above["latency_ms"]["max"] = oldest
        (row,) = [row for row in limits(50.0, of(above, above), 150.0) if "oldest" in row["what"]]
        assert row["holds"] is holds
    assert not [row for row in limits(50.0, of(above, above)) if "oldest" in row["what"]]


def test_a_machine_that_grows_slower_is_told_beside_the_growth():
    above = found((100.0,) * 8 + (120.0,) * 4, (5.0, 5.0), p99=99.0)
    for number, window in enumerate(above["over_time"]):
        window["infer_ms"] = 50.0 if number < 8 else 60.0
    (row,) = [row for row in limits(50.0, of(above, above)) if row["what"].startswith("growth of p99")]
    assert row["what"] == "growth of p99 age (of a run of inference, 1.20)" and not row["holds"]


def test_what_is_not_there_holds_nothing():
    empty = found((None,) * WINDOWS, (5.0, 5.0), p99=1.0)
    empty["latency_ms"]["p99"] = None
    rows = limits(50.0, of(empty, empty))
    assert [row["holds"] for row in rows] == [False, False, False, True, True, True]


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=12), st.floats(0.1, 10))
def test_growth_is_the_factor_between_the_ends(third, factor):
    values = [*third, *[7.0] * len(third), *(factor * each for each in third)]
    assert growth(values, statistics.median) == pytest.approx(factor)
    assert growth(values, max) == pytest.approx(factor)


@given(st.integers(1, 16), st.floats(10, 1000))
def test_the_streams_rates_differ_a_little_and_add_up(count, total):
    config = Asked(model="m", clip="synthetic:64x48", streams=count, options={}).config(total)
    paces = [stream.pace for stream in config.streams]
    assert sum(paces) == pytest.approx(total)
    assert len(set(paces)) == count
    assert max(paces) <= min(paces) * 1.021


def test_the_bound_is_of_files_that_may_grow_old():
    asked = Asked(model="m", clip="synthetic:64x48", options={"max_age_ms": 50.0})
    assert asked.config(10.0).max_age_ms == 50.0
    assert asked.config().max_age_ms is None


def test_the_ideal_is_a_frame_alone_as_long_as_none_waits_and_a_queue_where_they_do():
    assert ideal_ms(1.0, 1, 70.0, 2) == pytest.approx(70.0)
    assert ideal_ms(20.0, 2, 70.0, 2) == pytest.approx(70.0)  # never three frames of two cameras
    two, four, many = (ideal_ms(20.0, count, 70.0, 2) for count in (2, 4, 16))
    assert two < four <= 140.0 < many  # of four cameras' frames at once, two wait for one frame's time


def test_a_short_run_measures_all_of_it(tmp_path: Path, capsys) -> None:
    model = write_cheap_model(tmp_path / "cheap.onnx", size=320)
    result = tmp_path / "result.json"
    main(
        ["--model", str(model), "--clip", "synthetic:1280x720", "--streams", "2", "--seconds", "1.2",
         "--long-seconds", "1.2", "--bound-seconds", "0.6", "--json", str(result)]
    )  # fmt: skip
    report = json.loads(result.read_text(encoding="utf-8"))
    assert capsys.readouterr().out == table(report)
    assert report["kind"] == "framerail live"
    alone = report["service"]["alone_ms"]
    assert set(alone) == {"capture", "preprocess", "infer", "postprocess", "emit"}
    assert report["service"]["alone_sum_ms"] == pytest.approx(sum(alone.values()))
    for share in (BELOW, ABOVE):
        trial = report["trials"][f"{share:.0%}, 2 streams"]
        assert trial["asked_fps"] == pytest.approx(share * report["bound"]["bound_fps"])
        assert len(trial["over_time"]) == WINDOWS
        ends = [window["seconds"] for window in trial["over_time"]]
        assert ends == sorted(ends)
        # A busy machine ends a window late, never early.
        assert all(end >= 0.1 * (number + 1) - 0.01 for number, end in enumerate(ends))
        assert trial["conserved"] is True
        assert trial["channels"]["frames:camera-1"]["capacity"] == 2  # a live line's
    assert report["trials"]["400%, 2 streams"]["streams"]["camera-1"]["dropped"] > 0
    assert len(report["limits"]) == 6
    assert any(window["infer_ms"] for window in report["trials"]["400%, 2 streams"]["over_time"])


def test_what_cannot_be_measured_is_said(capsys) -> None:
    assert main(["--model", "nanodet-g", "--clip", "no-such.mp4"]) == 1
    assert "no-such.mp4" in capsys.readouterr().err
    assert main(["--model", "nanodet-g", "--clip", "synthetic:64x48", "--streams", "0"]) == 1
    assert "expected more than 0" in capsys.readouterr().err
