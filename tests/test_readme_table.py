"""The README's figures are those of the results that are kept."""

from __future__ import annotations

from benchmarks import readme, reliability


def test_the_table_is_made_from_the_newest_results() -> None:
    assert readme.written() == readme.README.read_text(encoding="utf-8"), "run python -m benchmarks.readme"


def test_another_result_is_another_table() -> None:
    line, peers = readme.newest(readme.LINE), readme.newest(readme.PEERS)
    before = readme.table(line, peers)
    peers["peers"]["ultralytics"]["ratios"]["framerail"]["median"] = 9.87
    line["nothing"]["fps"] = 4321.0
    assert "9.87 x as fast" in readme.table(line, peers)
    assert "4,321 frames/s" in readme.table(line, peers)
    assert before != readme.table(line, peers)


def test_the_tables_of_reliability_are_made_from_the_newest_results() -> None:
    text = reliability.DOCS.read_text(encoding="utf-8")
    assert reliability.filled(text) == text, "run python -m benchmarks.reliability"
    assert "| holds |" in text


def test_a_broken_limit_is_shown() -> None:
    found = readme.newest("*-restarts.json")
    found["limits"][0] |= {"measured": 199, "holds": False}
    assert "| 199 | 200 | **broken** |" in reliability.table(found)


def test_what_is_not_so_is_not_said() -> None:
    line, peers = readme.newest(readme.LINE), readme.newest(readme.PEERS)
    assert ", detections equal:" in readme.table(line, peers)
    peers["peers"]["opencv"]["agreement"]["equal"] = False
    assert "**detections not equal**" in readme.table(line, peers)
    peers["peers"]["tuned"] |= {
        "what": "framerail run after framerail tune", "profile": {"model": "m-int8-1.onnx", "ap_loss": 0.0041}
    }  # fmt: skip
    assert "| **framerail** run after framerail tune (int8, 0.004 AP lost) |" in readme.table(line, peers)
