"""How many cameras: the search on machines that are made up, the rest on this one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from zlib import crc32

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline import Pipeline
from pipeline.bench.clip import SECONDS, make_clip, resolution
from pipeline.bench.isolated import apart
from pipeline.bench.plan import Limits, search
from pipeline.commands import plan as plan_command
from pipeline.commands.plan import NotOneError, Options, plan, share
from pipeline.config import make_config
from pipeline.errors import ConfigError, PipelineError

LIMITS = Limits(fps=10, p99_age_ms=100, max_drop=0.01)


def found(*streams, fps=10.0, seconds=10.0):
    """What matters of a trial. A stream: captured frames/s, dropped share, p99 age."""
    return {
        "fps": fps,
        "seconds": seconds,
        "streams": {
            str(number): {"captured_fps": captured, "dropped_share": dropped, "p99_latency_ms": age}
            for number, (captured, dropped, age) in enumerate(streams)
        },
        "stages": {"infer": {"busy": 0.5}, "capture": {"busy": 0.9}},
        "cores": 2,
        "cores_used": 1.0,
        "peak_mb": 100.0,
        "notes": ["not steady: of no interest here", "disturbed: of interest"],
    }


GOOD, BAD = (10.0, 0.0, 50.0), (10.0, 0.5, 50.0)


@given(st.integers(0, 40), st.integers(-3, 3), st.integers(1, 40), st.integers(1, 40))
def test_the_answer_holds_in_a_long_trial_and_one_more_does_not(short, longer, most, first):
    """Whatever short trials say: ``short`` cameras hold in those, ``short + longer`` in long ones."""
    truth = max(short + longer, 0)
    runs = []

    def run(count, confirm):
        runs.append((count, confirm))
        assert 1 <= count <= most
        good = count <= (truth if confirm else short)
        return found(*[GOOD if good else BAD] * count, seconds=300.0 if confirm else 10.0)

    trials: list[dict] = []
    answer = search(run, LIMITS, most, trials, first)
    assert answer["cameras"] == min(truth, most)
    assert answer["at_most"] == (answer["cameras"] == most)
    confirmed = {count for count, confirm in runs if confirm}
    if answer["cameras"]:
        assert answer["cameras"] in confirmed
        assert answer["held_seconds"] == 300.0
        if not answer["at_most"]:
            assert answer["cameras"] + 1 in confirmed
    if not answer["at_most"]:
        assert "drops" in answer["gives_out"]["broken"]
        assert answer["gives_out"]["bottleneck"]["what"] == "capture"
        assert answer["gives_out"]["seconds"] == 300.0
    assert len(set(runs)) == len(runs) <= 20
    assert [trial["streams"] for trial in trials] == [count for count, _ in runs]


@pytest.mark.parametrize(
    ("streams", "broken"),
    [
        ([GOOD, GOOD], set()),
        ([GOOD, (10.0, 0.02, 50.0)], {"drops"}),
        ([GOOD, (10.0, 0.0, 120.0)], {"age"}),
        ([GOOD, (9.0, 0.0, 50.0)], {"capture"}),
        ([GOOD, (9.75, 0.0, 50.0)], set()),  # one frame of a hundred, and one more that may be on its way
        ([(9.0, 0.5, 500.0)], {"capture", "drops", "age"}),
        ([GOOD, (0.0, 0.0, None)], {"capture"}),
    ],
)
def test_the_stream_that_fares_worst_decides(streams, broken):
    assert set(LIMITS.broken(found(*streams))) == broken


def test_a_clip_is_what_a_camera_would_send(tmp_path):
    path = make_clip(tmp_path / "c.mp4", "synthetic:64x48?frames=7", (320, 180), 12.5)
    with av.open(str(path)) as clip:
        frames = list(clip.decode(video=0))
    assert (frames[0].width, frames[0].height) == (320, 180)
    assert len(frames) == SECONDS * 12.5
    assert [round(frame.time * 12.5) for frame in frames] == list(range(len(frames)))


@pytest.mark.parametrize(
    ("text", "size"), [("1080p", (1920, 1080)), ("4K", (3840, 2160)), ("640x360", (640, 360))]
)
def test_a_resolution_has_names(text, size):
    assert resolution(text) == size


@pytest.mark.parametrize("text", ["", "1080", "641x360", "8x8", "9000x9000", "axb"])
def test_a_resolution_that_cannot_be_meant(text):
    with pytest.raises(ConfigError, match="--resolution: expected"):
        resolution(text)


def test_a_share_may_be_written_either_way():
    assert share("0.1%") == share("0.001") == pytest.approx(0.001)
    for text in ("1", "100%", "-1%", "nan", "some"):
        with pytest.raises(ConfigError, match="--max-drop"):
            share(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fps": 2000}, "--fps: expected at most 1000, got 2000"),
        ({"fps": 0}, "--fps: expected more than 0"),
        ({"every_nth": 0}, "--every-nth: expected 1 or more, got 0"),
    ],
)
def test_cameras_that_cannot_be_meant(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Options(**options).limits()


def test_cameras_do_not_agree_on_when_they_take_their_pictures(cheap_model: str) -> None:
    """After the first frame each waits for its own moment within the second, which its name tells: so long
    that a machine which stands still for a moment does not hide it."""
    phases = {name: crc32(name.encode()) / 2**32 for name in ("c", "a")}
    assert abs(phases["c"] - phases["a"]) > 0.5
    streams = [{"source": "synthetic:64x48?frames=3", "name": name, "pace": 1.0} for name in phases]
    times: dict[str, list[float]] = {name: [] for name in phases}
    with Pipeline(make_config({"streams": streams, "model": cheap_model})) as line:
        for result in line:
            times[result.stream].append(result.frame.captured_at)
    for name, (first, second, third) in times.items():
        assert second - first == pytest.approx(1 + phases[name], abs=0.24)
        assert third - second == pytest.approx(1, abs=0.24)


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), PipelineError("the measuring process ended")])
def test_a_search_that_ends_early_prints_its_trials(ending, cheap_model, capsys, monkeypatch) -> None:
    counts = []

    def short(work, config, settings):
        counts.append(len(config.streams))
        if len(counts) % 3 == 0:  # in the midst of the third trial
            raise ending
        return apart(work, config, settings)

    monkeypatch.setattr(plan_command, "apart", short)
    options = Options(
        source="synthetic:64x48?frames=5", fps=3, resolution="128x96", p99_age_ms=2000, max_drop="50%",
        most=8, seconds=0.6, run={"model": cheap_model},
    )  # fmt: skip
    out, err = Console(file=io.StringIO(), width=200), Console(file=io.StringIO())
    with pytest.raises(type(ending)):
        plan(options, out, err, as_json=False)
    said = out.file.getvalue()
    assert said.count("holds") == 2 and "cameras of" not in said, "two trials, and no answer"
    assert "no answer" in err.file.getvalue()
    with pytest.raises(type(ending)):
        plan(options, out, err, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["cameras"], report["held_seconds"], report["gives_out"]) == (None, None, None)
    assert [trial["streams"] for trial in report["trials"]] == [1, 2]


def test_the_command_finds_an_answer_and_tells_machines(cheap_model: str, tmp_path: Path, capsys) -> None:
    quiet = Console(file=io.StringIO())
    # So slow that a machine which stands still for a moment costs a camera no more than is allowed.
    options = Options(
        source="synthetic:64x48?frames=5", fps=3, resolution="128x96", p99_age_ms=2000, max_drop="50%",
        most=2, seconds=0.6, confirm=0.9, run={"model": cheap_model},
    )  # fmt: skip
    plan(options, quiet, quiet, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["cameras"], report["at_most"]) == ("framerail plan", 2, True)
    assert [(trial["streams"], trial["confirming"]) for trial in report["trials"]][-1] == (2, True)
    # Paced: as fast as they could, the two would bring hundreds. (A machine that stands still for
    # half a window gives twice the rate in the next: these cameras, too, send what is due.)
    assert 0 < report["trials"][-1]["fps"] < 80
    assert (report["asked"]["seconds"], report["asked"]["confirm_seconds"]) == (0.6, 0.9)
    assert report["held_seconds"] == report["trials"][-1]["seconds"] >= 0.9
    assert report["provider"]["active"] == "CPUExecutionProvider"
    impossible = Options(
        source="synthetic:64x48?frames=5", fps=10, resolution="128x96", p99_age_ms=0.001,
        most=1, seconds=0.3, confirm=0.3, run={"model": cheap_model},
    )  # fmt: skip
    with pytest.raises(NotOneError, match="p99 age"):
        plan(impossible, quiet, quiet, as_json=True)
    nothing = json.loads(capsys.readouterr().out)
    assert (nothing["cameras"], nothing["held_seconds"]) == (0, None)
    shown = Console(file=io.StringIO(), width=200)
    plan_command._print({**report, "held_seconds": 300.2}, shown)
    assert "2 cameras of 128x96" in (text := shown.file.getvalue()) and "held for 300 s" in text


def test_what_breaks_a_limit_is_shown_to_be_above_it() -> None:
    limits = Limits(fps=5, p99_age_ms=20, max_drop=0.01)
    stream = {"captured_fps": 5.0, "dropped_share": 0.010001, "p99_latency_ms": 20.04}
    broken = limits.broken({"streams": {"a": stream}, "seconds": 10})
    assert broken["age"] == "p99 age 20.04 ms (limit 20)"
    assert broken["drops"].startswith("1.0001% ")
