"""How many runs of inference a line makes at once: for the machine, and for its streams."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.config import make_config
from pipeline.cores import usable_cores
from pipeline.decide import cameras, run_concurrency
from pipeline.runtime.session import concurrency
from pipeline.summary import summarize

CAMERA: dict[str, Any] = {"source": "synthetic:64x48@50", "live": True, "max_frames": 5}
FILE: dict[str, Any] = {"source": "synthetic:64x48?frames=5"}


@pytest.mark.parametrize(
    ("streams", "count"),
    [
        ([{"source": "rtsp://127.0.0.1/a"}], 1),
        ([{"source": "camera:0"}, {"source": "http://127.0.0.1/mjpeg"}, {**FILE, "pace": 10}], 3),
        ([{"source": "rtsp://127.0.0.1/a", "paused": True}, CAMERA], 2),
        ([CAMERA, FILE], None),
        ([{"source": "rtsp://127.0.0.1/a", "live": False}], None),
        ([{"source": "http://127.0.0.1/clip.mp4"}], None),
        ([{"source": "gone.mp4", "paused": True}], None),
    ],
)
def test_streams_are_cameras_where_all_are_live(streams: list[dict[str, Any]], count: int | None) -> None:
    config = make_config({"streams": streams})
    assert cameras(config) == count
    assert run_concurrency(config, "cpu") == concurrency(usable_cores(), None, None, count)


def test_what_is_asked_for_is_what_there_is() -> None:
    config = make_config({"streams": [CAMERA], "infer_workers": 3, "infer_threads": 2})
    assert run_concurrency(config, "cpu") == (3, 2)
    batched = make_config({"streams": [CAMERA], "batch": 4})
    assert run_concurrency(batched, "cpu") == concurrency(usable_cores(), None, None)


def test_a_line_keeps_what_it_began_with(cheap_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that come, and a model that is opened later, are run as the line began. Eight cores are made
    up: what is looked at is what ONNX Runtime is asked for."""
    monkeypatch.setattr("pipeline.decide.usable_cores", lambda: 8)
    with Pipeline(make_config({"model": cheap_model, "streams": [CAMERA]})) as line:
        for number, _ in enumerate(line):
            if number == 1:
                line.add_stream(**{**CAMERA, "name": "other"})
                line.add_stream(**{**CAMERA, "name": "third"})
                line.reload_model()
        said = summarize(line)["settings"]
        assert (said["workers"], said["threads"]) == (2, 4)
        assert line.model is not None
        assert line.model.session._session.get_session_options().intra_op_num_threads == 4
    with Pipeline(make_config({"model": cheap_model, "streams": [CAMERA, FILE]})) as line:
        line.run()
        said = summarize(line)["settings"]
        assert (said["workers"], said["threads"]) == (8, 1)
