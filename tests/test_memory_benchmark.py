"""The benchmark of what a further stream takes, in its short form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.memory import main

PICTURE_MB = 1920 * 1080 * 3 / 1e6


def test_a_further_stream_is_charged_with_what_it_holds(
    tmp_path: Path, cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / "memory.json"
    monkeypatch.setattr(
        "sys.argv",
        ["memory", "--clip", "synthetic:1920x1080", "--model", cheap_model, "--streams", "1,4",
         "--frames", "12", "--rounds", "1", "--json", str(result)],
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main()
    found = json.loads(result.read_text(encoding="utf-8"))
    alone, four = (found["peak_mb"][count][0] for count in ("1", "4"))
    assert found["further_mb"] == {"4": pytest.approx((four - alone) / 3)}
    # One in the channel and one in its thread's hands, at least; no stream costs a line of its own.
    assert PICTURE_MB < found["further_mb"]["4"] < alone
    (limit,) = found["limits"]
    assert limit["holds"] is (limit["measured"] <= limit["limit"]) is (ended.value.code == 0)


def test_one_stream_must_be_among_them(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["memory", "--clip", "synthetic:64x48", "--streams", "4,8"])
    with pytest.raises(SystemExit):
        main()
    assert "expected 1 and larger numbers" in capsys.readouterr().err
