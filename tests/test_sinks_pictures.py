"""Annotated pictures, read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import Pipeline
from pipeline.errors import SinkOpenError, SinkWriteError
from pipeline.sinks import PictureFiles
from tests.test_sinks_common import make_result


def test_each_frame_of_each_stream_is_a_picture_with_its_boxes(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    with PictureFiles(folder) as sink:
        for seq, stream in ((0, "gate/1"), (7, "gate/1"), (0, "gate 1"), (1_234_567, "é")):
            sink.write(make_result(seq=seq, stream=stream, boxes=[(10, 10, 40, 30)]), 0)
    names = {"gate_1-000000.jpg", "gate_1-000007.jpg", "gate_1-2-000000.jpg", "é-1234567.jpg"}
    assert {path.name for path in folder.iterdir()} == names
    grey = np.full((48, 64, 3), 128, np.uint8)
    for name in names:
        data = np.fromfile(folder / name, np.uint8)
        drawn = np.abs(cv2.imdecode(data, cv2.IMREAD_COLOR).astype(int) - grey).max(axis=2) > 40
        assert drawn[8:32, 8:42].any() and not drawn[36:].any()


def test_the_frame_itself_is_not_drawn_on(tmp_path: Path) -> None:
    result = make_result(boxes=[(10, 10, 40, 30)])
    PictureFiles(tmp_path).write(result, 0)
    assert (result.frame.image == 128).all()


def test_a_picture_of_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "cam1-000000.jpg").write_text("old")
    PictureFiles(tmp_path).write(make_result(), 0)
    assert (tmp_path / "cam1-000000.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert [path.name for path in tmp_path.iterdir()] == ["cam1-000000.jpg"]


def test_a_folder_that_cannot_be_one_is_said_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkOpenError, match="it is a file, not a folder"):
        PictureFiles(tmp_path / "file")
    with pytest.raises(SinkOpenError, match="cannot write pictures to"):
        PictureFiles(tmp_path / "file" / "below")
    with pytest.raises(SinkOpenError, match="null"):
        PictureFiles("a\0b")


def test_a_folder_that_is_gone_is_an_error_with_its_name(tmp_path: Path) -> None:
    sink = PictureFiles(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(SinkWriteError, match=r"cannot write picture .*cam1-000000\.jpg: No such file"):
        sink.write(make_result(), 0)
    (tmp_path / "out").write_text("a file now")
    with pytest.raises(SinkWriteError, match=r"cannot write picture .*cam1-000000\.jpg: Not a directory"):
        sink.write(make_result(), 0)


def test_the_pictures_that_are_read_are_not_written_over(tmp_path: Path, cheap_model: str) -> None:
    cv2.imwrite(str(tmp_path / "pictures-000000.jpg"), np.zeros((48, 64, 3), np.uint8))
    with (
        pytest.raises(SinkOpenError, match=r"the source .* lies there; choose another folder"),
        Pipeline(str(tmp_path), model=cheap_model, pictures=str(tmp_path)),
    ):
        pass
    with Pipeline(str(tmp_path), model=cheap_model, pictures=str(tmp_path / "out")) as line:
        line.run()
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 1


def test_pictures_keep_the_names_of_their_files(tmp_path: Path, cheap_model: str) -> None:
    names = ["bus 1.jpg", "DSC7.JPG", "odd.png", "a/x.jpg", "b/x.jpg"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / name), np.zeros((48, 64, 3), np.uint8))

    def written(sources: list[str]) -> tuple[set[str], set[str | None]]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        with Pipeline(sources, model=cheap_model, pictures=str(out), jsonl=str(tmp_path / "lines")) as line:
            line.run()
        lines = (tmp_path / "lines").read_text().splitlines()
        return {path.name for path in out.iterdir()}, {json.loads(text).get("source") for text in lines}

    folder = str(tmp_path / "in")
    files, sources = written([folder])
    assert files == {"bus 1.jpg", "DSC7.JPG", "odd.png.jpg"} and sources == set(names[:3])
    assert written([f"{folder}/a/x.jpg"]) == ({"x.jpg"}, {"x.jpg"})
    files, sources = written([f"{folder}/a", f"{folder}/b"])
    assert files == {"a-x.jpg", "b-x.jpg"} and sources == {"x.jpg"}
    files, sources = written([f"{folder}/*/*.jpg"])
    assert files == {"000000-a_x.jpg", "000001-b_x.jpg"} and sources == {"a/x.jpg", "b/x.jpg"}
    assert written(["synthetic:64x48?frames=1"])[1] == {None}


def test_no_stream_writes_over_the_pictures_of_another(tmp_path: Path) -> None:
    """Nor one that is added later, whose files have the same names."""
    with PictureFiles(tmp_path, ["first"]) as sink:
        for stream, source in (("first", "1.jpg"), ("first", "b-1.jpg"), ("a", "b-1.jpg"), ("a-b", "1.jpg")):
            sink.write(make_result(stream=stream, source=source), 0)
        sink.write(make_result(stream="first", source="1.jpg"), 0)  # of a source that loops
    assert {path.name for path in tmp_path.iterdir()} == {"1.jpg", "b-1.jpg", "a-b-1.jpg", "a-b-1-2.jpg"}


def test_a_pictures_name_may_look_like_anothers_number(tmp_path: Path) -> None:
    with PictureFiles(tmp_path, ["pics"]) as sink:
        sink.write(make_result(stream="cam", seq=1), 0)
        sink.write(make_result(stream="pics", source="cam-000001.jpg"), 0)
    assert {path.name for path in tmp_path.iterdir()} == {"cam-000001.jpg", "cam-000001-2.jpg"}
