"""Signals at random moments: a short form of ``benchmarks.signals``, which has done each a hundred times."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from benchmarks.signals import SIGNALS, decoded, look, one

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signals")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("after", [(0.2, 0.8), (1.6, 2.2)])
def test_no_half_file_is_left(
    cheap_model: str, tmp_path: Path, name: str, after: tuple[float, float]
) -> None:
    seconds = random.Random(f"{name}{after}").uniform(*after)
    found = one(tmp_path / "run", Path(cheap_model), name, seconds)
    assert found["faults"] == []


def test_what_is_broken_is_found(cheap_model: str, tmp_path: Path) -> None:
    """The look itself can fail: half a video, half a line, half a picture, a part that is left."""
    for seconds in (2.5, 5, 10):  # a busy machine may take long to begin
        folder = tmp_path / str(seconds)
        assert one(folder, Path(cheap_model), "SIGTERM", seconds)["faults"] == []
        if any((folder / "pictures").iterdir()):
            break
    assert look(folder, killed=False) == []
    video, lines = folder / "v.mp4", folder / "out.jsonl"
    picture = next((folder / "pictures").iterdir())
    assert decoded(video)[0] > 0
    video.write_bytes(video.read_bytes()[:-3000])
    lines.write_bytes(lines.read_bytes()[:-9])
    picture.write_bytes(picture.read_bytes()[:-9])
    (folder / "x.part").touch()
    found = look(folder, killed=False)
    assert [each.split()[0] for each in found] == ["line", "v.mp4", picture.name, "left"]
    assert len(look(folder, killed=True)) == 2  # half of the last line, and parts, are what a kill leaves
