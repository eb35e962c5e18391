"""Where the summary goes, and the lines: what is in the way, or open already, is not lost."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from pipeline.errors import SinkOpenError, SinkWriteError
from pipeline.sinks import JsonLines, VideoFile
from pipeline.summary import check_writable, write_summary
from tests.test_sinks_common import make_result

FIGURES = {"fps": 1.5}


def written(path: Path) -> None:
    check_writable(str(path))
    write_summary(str(path), FIGURES)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="needs descriptors by their names")
@pytest.mark.parametrize("output", ["summary", "jsonl"])
def test_what_is_open_already_is_added_to(tmp_path: Path, output: str) -> None:
    """Under its own name, and through a link of a link; the links stay."""
    out = tmp_path / "out"
    with out.open("wb", buffering=0) as file:
        (tmp_path / "near").symlink_to(f"/dev/fd/{file.fileno()}")
        (tmp_path / "far").symlink_to("near")
        for path in (f"/dev/fd/{file.fileno()}", tmp_path / "near", tmp_path / "far"):
            file.write(b"before\n")
            if output == "summary":
                written(Path(path))
            else:
                with JsonLines(path) as lines:
                    lines.write(make_result(), 0)
        file.write(b"after\n")  # it is open still
    texts = out.read_text().removesuffix("after\n").split("before\n")
    assert texts[0] == "" and len(texts) == 4
    for text in texts[1:]:
        assert json.loads(text) == FIGURES if output == "summary" else json.loads(text)["frame"] == 0
    assert (tmp_path / "near").is_symlink() and (tmp_path / "far").is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["far", "near", "out"]


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="needs descriptors by their names")
def test_what_is_open_for_reading_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"precious")
    with (tmp_path / "in").open("rb") as file:
        path = f"/dev/fd/{file.fileno()}"
        for refused in (check_writable, JsonLines):
            with pytest.raises(SinkOpenError, match=f"cannot write .*{path}: "):
                refused(path)
        with pytest.raises(SinkWriteError, match=f"cannot write summary {path}: "):
            write_summary(path, FIGURES)
    assert (tmp_path / "in").read_bytes() == b"precious"


def test_a_links_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    written(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text()) == FIGURES
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_called_part_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s.json.part").write_text("precious")
    written(tmp_path / "s.json")
    assert (tmp_path / "s.json.part").read_text() == "precious"
    with VideoFile(tmp_path / "v.mp4") as video:  # another run's
        video.write(make_result(pts=0), 0)
        written(tmp_path / "v.mp4")
        video.write(make_result(seq=1, pts=40), 0)
    assert (tmp_path / "v.mp4").read_bytes()[4:8] == b"ftyp"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["s.json", "s.json.part", "v.mp4"]


def test_one_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    check_writable(str(path))
    path.mkdir()
    with pytest.raises(SinkWriteError, match="cannot write summary"):
        write_summary(str(path), FIGURES)
    with pytest.raises(TypeError):
        write_summary(str(tmp_path / "t.json"), {"no": object()})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="locks are not kept there")
def test_what_another_run_is_writing_is_refused_and_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = JsonLines(tmp_path / "o.jsonl")
    for refused in (check_writable, lambda path: write_summary(path, FIGURES)):
        with pytest.raises(
            (SinkOpenError, SinkWriteError), match="another run is writing it; choose another name"
        ):
            refused(str(tmp_path / "o.jsonl"))
    sink.close()
    assert (tmp_path / "o.jsonl").read_bytes() == b""
    (tmp_path / "old.json").write_text("{}")
    check_writable(str(tmp_path / "old.json"))
    assert "old.json, 2 bytes of an earlier run, is replaced by this one's" in caplog.text
