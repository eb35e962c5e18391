"""How many runs of inference a line makes at once: for the machine, and for its streams."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.config import make_config
from pipeline.decide import cameras, run_concurrency
from pipeline.runtime.session import concurrency, usable_cores
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


@pytest.mark.skipif(usable_cores() < 2, reason="with one core there is nothing to choose")
def test_one_camera_has_all_threads_and_keeps_them(cheap_model: str) -> None:
    """A file beside it does not; and a model that is opened later is run as the line began."""
    with Pipeline(make_config({"model": cheap_model, "streams": [CAMERA]})) as line:
        for number, _ in enumerate(line):
            if number == 1:
                line.add_stream(**{**CAMERA, "name": "other"})
                line.reload_model()
        said = summarize(line)["settings"]
        assert (said["workers"], said["threads"]) == (1, usable_cores())
        assert line.model is not None
        options = line.model.session._session.get_session_options()
        assert options.intra_op_num_threads == usable_cores()
    with Pipeline(make_config({"model": cheap_model, "streams": [CAMERA, FILE]})) as line:
        line.run()
        said = summarize(line)["settings"]
        assert (said["workers"], said["threads"]) == concurrency(usable_cores(), None, None)
