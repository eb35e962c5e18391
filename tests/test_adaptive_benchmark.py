"""The benchmark of held ages: its arithmetic on runs that are made up, and a short run of the real line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.adaptive import PHASES, figures, main, table
from benchmarks.cheap_model import write_cheap_model


def window(phase: str, p99: float | None, **every_nth: int) -> dict[str, object]:
    p50 = None if p99 is None else p99 / 2
    return {"phase": phase, "p50_ms": p50, "p99_ms": p99, "fps": 10.0, "every_nth": every_nth}


def test_figures_of_a_run() -> None:
    few, more, again = PHASES
    windows = [
        *[window(few, 50, a=1)] * 3,
        window(more, 300, a=1, b=1),
        window(more, 110, a=1, b=2),
        window(more, 90, a=2, b=2),
        window(more, 80, a=2, b=2),
        window(more, None, a=2, b=2),
        window(again, 60, a=2),
    ]
    rows = figures({"windows": windows}, target=100, settling=1)
    assert [row["held"] for row in rows] == [1, pytest.approx(2 / 3), 0]
    assert [row["changes"] for row in rows] == [0, 1, 0]
    assert [row["p99_ms"] for row in rows] == [50, 90, None]
    assert [row["every_nth"] for row in rows] == [[1], [2, 2], [2]]


def test_a_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_cheap_model(tmp_path / "cheap.onnx", size=320)
    result, picture = tmp_path / "result.json", tmp_path / "plot.png"
    assert (
        main(
            ["--target-age-ms", "100", "--model", str(model), "--clip", "synthetic:320x240", "--more", "1",
             "--pace", "50", "--sink-ms", "8", "--seconds", "0.6", "--json", str(result),
             "--plot", str(picture)]
        )
        == 0
    )  # fmt: skip
    report = json.loads(result.read_text(encoding="utf-8"))
    assert capsys.readouterr().out == table(report)
    for name in ("off", "on"):
        run = report["runs"][name]
        assert run["conserved"] is True
        ages = [each["p50_ms"] for each in run["windows"] if each["p50_ms"] is not None]
        assert ages and min(ages) >= 8, "the sink takes its time over each result"
        assert [each["phase"] for each in run["windows"]] == [phase for phase in PHASES for _ in range(3)]
        assert [len(each["every_nth"]) for each in run["windows"]] == [2, 2, 2, 3, 3, 3, 2, 2, 2]
    assert report["runs"]["on"]["target_age_ms"] == 100
    assert picture.stat().st_size > 10_000
