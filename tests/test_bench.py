"""Measuring: bounds by arithmetic, steady windows on a real line, sweeps, comparisons, plots."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import get_type_hints

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.cheap_model import write_cheap_model
from pipeline import Pipeline
from pipeline.bench import Cost, Settings, bounds, isolated, measure
from pipeline.bench.axes import AXES, parse_streams, parse_sweep, points
from pipeline.bench.compare import compare, differences, load
from pipeline.bench.isolated import apart
from pipeline.bench.machine import busy_seconds
from pipeline.bench.plot import check_plot, write_plot
from pipeline.bench.point import bottleneck, over, padding
from pipeline.bench.table import print_changes, print_report
from pipeline.cli import bench as cli_bench
from pipeline.commands import bench as bench_command
from pipeline.commands.bench import Options, SlowerError, bench
from pipeline.config import make_config
from pipeline.errors import ConfigError, ModelError, PipelineError, SinkOpenError, SourceOpenError
from pipeline.runtime.model import open_model
from pipeline.vision.letterbox import InputSpec
from tests.servers import free_port

SHORT = Settings(warm_up=0.1, window=0.2, most=1.5)


def config_of(model: str, source: str = "synthetic:64x48", **stream):
    return make_config({"streams": [{"source": source, "name": "s", **stream}], "model": model})


@pytest.fixture(scope="module")
def point(cheap_model: str):
    return measure(config_of(cheap_model), SHORT)


# What a machine allows -------------------------------------------------------------------------

costs = st.floats(0.001, 100)


@given(st.lists(st.tuples(costs, costs), min_size=5, max_size=5), st.integers(1, 64), st.integers(1, 32))
def test_the_bound_is_the_least_of_the_cores_and_the_stages_threads(pairs, cores, streams):
    names = ("capture", "preprocess", "infer", "postprocess", "emit")
    alone = {name: Cost(*pair) for name, pair in zip(names, pairs, strict=True)}
    found = bounds(alone, cores=cores, threads={"capture": streams, "infer": 3})
    assert [each.fps for each in found] == sorted(each.fps for each in found)
    by_name = {each.what: each.fps for each in found}
    seconds = sum(cost.cpu_ms for cost in alone.values()) / 1000
    assert by_name["cores"] == pytest.approx(cores / seconds)
    assert by_name["capture"] == pytest.approx(streams / alone["capture"].wall_ms * 1000)
    assert by_name["infer"] == pytest.approx(3 / alone["infer"].wall_ms * 1000)
    assert by_name["emit"] == pytest.approx(1 / alone["emit"].wall_ms * 1000)


def test_paced_sources_bound_too():
    alone = {"infer": Cost(10, 10)}
    found = bounds(alone, cores=2, threads={}, source_fps=30.0)
    assert (found[0].what, found[0].fps) == ("source", 30.0)


def test_the_bottleneck_is_named_with_the_reason():
    stages = {
        "capture": {"alone_cpu_ms": 2.0, "busy": 0.3},
        "infer": {"alone_cpu_ms": 18.0, "busy": 0.97},
        "emit": {"alone_cpu_ms": 0.0, "busy": 0.99},
    }
    paced = bounds({"infer": Cost(10, 10)}, cores=2, threads={}, source_fps=30.0)
    free = [each for each in paced if each.what != "source"]
    assert bottleneck(stages, 1.0, 2, paced, 29.9)["what"] == "source"
    assert bottleneck(stages, 1.0, 2, paced, 20.0)["what"] == "emit"
    idle = {name: {**stage, "busy": stage["busy"] / 4} for name, stage in stages.items()}
    none = bottleneck(idle, 0.2, 2, paced, 20.0)
    assert (none["what"], "busy more than 25%" in none["why"]) == ("none", True)
    cores = bottleneck(stages, 1.9, 2, free, 100.0)
    assert (cores["what"], "infer takes 90%" in cores["why"]) == ("cores", True)


def test_a_line_that_is_faster_than_its_bound_is_not_believed():
    assert over(0.97) == over(1.02) == []
    (note,) = over(1.1)
    assert note.startswith("110% of the bound cannot be")


@pytest.mark.parametrize(
    ("asked", "sizes", "says"),
    [
        ({}, {(1080, 1920)}, "40% .* 1920x1080 takes 640x384 of 640x640;"),
        ({}, {(1920, 1080)}, "40% .* takes 384x640 of 640x640;"),
        ({}, {(1080, 1920), (480, 640)}, "25% .* 640x480, 1920x1080 takes 640x480 of 640x640;"),
        ({}, {(1080, 1920), (1920, 1080)}, None),  # one file is to do for both
        ({}, {(600, 640)}, None),
        ({}, set(), None),
        ({"stride": 32}, {(1080, 1920)}, None),  # it takes any size already
        ({"resize": "stretch"}, {(1080, 1920)}, None),
        ({"resize": "crop"}, {(1080, 1920)}, None),
    ],
)
def test_padding_that_need_not_be_is_said(asked, sizes, says):
    notes = padding(InputSpec(640, 640, **asked), sizes)
    assert [re.search(says, note) is not None for note in notes] == [True] if says else notes == []


def test_a_point_says_what_of_its_input_is_padding(tmp_path):
    square = str(write_cheap_model(tmp_path / "square.onnx", size=64))
    notes = measure(config_of(square, "synthetic:64x32"), SHORT)["notes"]
    assert any("64x32 takes 64x32 of 64x64" in note for note in notes), notes


def test_a_run_of_two_threads_may_take_half_of_what_one_takes(cheap_model):
    """Alone it is measured on one, so that the bound of all cores is the least CPU time."""
    config = make_config(
        {"streams": [{"source": "synthetic:64x48"}], "model": cheap_model, "provider": "cpu",
         "infer_workers": 1, "infer_threads": 2}
    )  # fmt: skip
    found = measure(config, Settings(warm_up=0.05, window=0.1, most=0.5))
    (infer,) = (each for each in found["bounds"] if each["what"] == "infer")
    assert infer["fps"] == pytest.approx(2 / found["stages"]["infer"]["alone_ms"] * 1000)
    assert infer["why"].startswith("2 threads ÷ ")


@pytest.mark.timeout(30)
def test_a_camera_that_refuses_the_connection_ends_the_benchmark(cheap_model):
    config = make_config({"streams": [{"source": f"rtsp://127.0.0.1:{free_port()}/x"}], "model": cheap_model})
    with pytest.raises(SourceOpenError, match="connection refused"):
        measure(config, Settings(warm_up=0.05, window=0.1, most=0.5))


def test_the_cores_that_anybody_uses(tmp_path):
    """Idle and waiting do not count; nor do cores that this process may not use."""
    mine = sorted(os.sched_getaffinity(0))
    ticks = "100 20 30 5000 600 4 5 60 0 0"
    stat = tmp_path / "stat"
    stat.write_text("\n".join(["cpu  9 9 9 9 9 9 9 9", *(f"cpu{n} {ticks}" for n in [*mine, 4096])]))
    assert busy_seconds(stat) == len(mine) * 219 / os.sysconf("SC_CLK_TCK")
    assert busy_seconds(tmp_path / "none") is None


# A point ---------------------------------------------------------------------------------------


def test_a_point_tells_what_the_line_did(point):
    assert point["conserved"] is True
    assert point["provider"]["active"] == "CPUExecutionProvider"
    assert len(point["windows"]) >= point["counted"] == 3
    assert set(point["stages"]) == {"capture", "preprocess", "infer", "postprocess", "emit"}
    for stage in point["stages"].values():
        assert 0 < stage["alone_cpu_ms"] < 5
        assert 0 < stage["line_ms"] <= stage["line_p99_ms"] * 1.03
        assert 0 <= stage["busy"] <= 1.1
    assert {"frames:s", "blobs", "outputs", "results"} == set(point["channels"])
    assert all(0 <= channel["fill"] <= 1 for channel in point["channels"].values())
    assert point["ratio"] == pytest.approx(point["fps"] / point["bound_fps"])
    assert point["bound_fps"] == min(bound["fps"] for bound in point["bounds"])
    latency = point["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert 0 < point["cores_used"] <= point["cores"] + 0.2
    assert json.loads(json.dumps(point)) == point


def test_the_rate_is_that_of_the_windows_and_the_books(point):
    counted = point["windows"][-3:]
    assert point["fps"] == sorted(counted)[1]
    ends = [0.0, *(window["seconds"] for window in point["over_time"])]
    lengths = [after - before for before, after in itertools.pairwise(ends)]
    frames = sum(rate * length for rate, length in zip(counted, lengths, strict=True))
    assert point["streams"]["s"]["fps"] == pytest.approx(frames / point["seconds"])


def test_a_source_that_delivers_no_more_is_the_bottleneck(cheap_model):
    found = measure(config_of(cheap_model, pace=20), Settings(warm_up=0.1, window=0.5, most=3))
    assert found["bottleneck"]["what"] == "source"
    assert found["fps"] == pytest.approx(20, rel=0.15)
    assert found["bounds"][0]["what"] == "source"


def test_what_is_not_steady_is_said(cheap_model):
    noted = measure(config_of(cheap_model), Settings(warm_up=0, window=0.05, most=0.1, tolerance=0.0))
    assert noted["steady"] is False
    assert "not steady" in noted["notes"][0]


def test_a_source_that_ends_too_soon_is_an_error(cheap_model):
    with pytest.raises(ConfigError, match="ended before 3 windows"):
        measure(config_of(cheap_model, "synthetic:64x48?frames=20"), SHORT)


def test_no_thread_is_left_behind(cheap_model):
    before = set(threading.enumerate())
    with pytest.raises(ConfigError):
        measure(config_of(cheap_model, "synthetic:64x48?frames=20"), SHORT)
    assert set(threading.enumerate()) <= before


def test_a_point_in_its_own_process_is_the_same_or_the_same_error(cheap_model, tmp_path):
    rates: list[list[float]] = []
    found = apart(measure, config_of(cheap_model), SHORT, lambda so_far: rates.append(list(so_far)))
    assert rates[-1] == found["windows"]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelError, match="it is no ONNX file"):
        apart(measure, config_of(str(broken)), SHORT)


def test_a_process_that_dies_is_an_error(cheap_model, monkeypatch):
    monkeypatch.setattr(isolated, "_work", _die)
    with pytest.raises(PipelineError, match=r"ended by itself \(exit code -9\)"):
        apart(measure, config_of(cheap_model), SHORT)


def _die(*_arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# What is varied --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "meant"),
    [
        ([], {}),
        (["batch"], {"batch": ()}),
        (["batch=1,4,workers,threads=2"], {"batch": ("1", "4"), "workers": (), "threads": ("2",)}),
        (
            ["provider=cpu", "input-size=320x256,416"],
            {"provider": ("cpu",), "input-size": ("320x256", "416")},
        ),
    ],
)
def test_a_sweep_is_read(texts, meant):
    assert parse_sweep(texts) == meant


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (parse_sweep, ["worker"], "did you mean 'workers'"),
        (parse_sweep, ["batch=1", "batch=2"], "batch stands twice"),
        (parse_sweep, ["workers=x"], "--sweep: workers takes numbers from 1 on"),
        (parse_sweep, ["threads=0"], "--sweep: threads takes numbers from 1 on"),
        (parse_sweep, ["fuse=maybe"], "--sweep: fuse is one of true, false; got 'maybe'"),
        (parse_sweep, ["batch=1,2,1"], "--sweep: batch has a value twice: 1, 2, 1"),
        (parse_streams, "0", "such as 1,2,4,8"),
        (parse_streams, "1,x", "such as 1,2,4,8"),
        (parse_streams, "2,2", "such as 1,2,4,8"),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_refused(parse, text, says):
    with pytest.raises(ConfigError, match=says):
        parse(text)


def test_the_help_lists_every_axis():
    (option,) = get_type_hints(cli_bench.bench, include_extras=True)["sweep"].__metadata__
    listed = option.help.partition(";")[0].removeprefix("Measure every combination of ")
    assert listed.split(", ") == list(AXES)


def test_every_combination_is_a_point(tmp_path):
    model = str(write_cheap_model(tmp_path / "m.onnx", dynamic_batch=True))
    config = config_of(model)
    planned = list(points(config, open_model(model), {"batch": (), "workers": ("1", "3")}, [1, 2]))
    assert [tuple(each.asked.values()) for each in planned] == [
        (batch, workers, streams) for batch in "1248" for workers in "13" for streams in (1, 2)
    ]
    for each in planned:
        assert each.config.batch == int(each.asked["batch"])
        assert each.config.infer_workers == int(each.asked["workers"])
        assert [stream.name for stream in each.config.streams] == ["1", "2"][: each.asked["streams"]]
    assert planned[-1].label == "batch 8, workers 3, 2 streams"


# Then and now ----------------------------------------------------------------------------------


def report_of(point, fps, infer_ms=10.0, spread=0.0):
    """A result with another rate."""
    changed = json.loads(json.dumps({"asked": {}, "label": "", "source": "s", **point}))
    changed["windows"], changed["fps"] = [fps * (1 - spread), fps, fps], fps
    changed["stages"]["infer"] |= {"alone_cpu_ms": infer_ms, "alone_spread": 0.0}
    return {
        "kind": "framerail bench",
        "machine": {"cpu": "c", "cores": 2, "versions": {"x": "1"}},
        "points": [changed],
    }


@pytest.mark.parametrize(
    ("now", "spread", "verdict"),
    [(100, 0, "same"), (96, 0, "same"), (90, 0, "slower"), (112, 0, "faster"), (85, 0.2, "same")],
)
def test_slower_is_slower_beyond_noise(point, now, spread, verdict):
    changes = {
        each.what: each for each in compare(report_of(point, 100), report_of(point, now, spread=spread))
    }
    assert changes["throughput"].verdict == verdict
    assert changes["infer alone"].verdict == "same"


def test_a_stage_alone_is_compared_too(point):
    changes = {each.what: each for each in compare(report_of(point, 100), report_of(point, 100, infer_ms=12))}
    assert changes["infer alone"].verdict == "slower"
    assert changes["infer alone"].ratio == pytest.approx(10 / 12)


def test_what_could_run_and_cannot_is_worse_than_slower(point):
    old, new = report_of(point, 100), report_of(point, 100)
    gone = {"asked": {"batch": "2"}, "label": "batch 2", "source": "s", "model": point["model"]}
    old["points"].append({**old["points"][0], **gone})
    for error_then, count in ((None, 1), ("never did", 0)):
        if error_then is not None:
            old["points"][1] = {**gone, "error": error_then}
        worse = [each for each in compare(old, {**new, "points": [*new["points"], {**gone, "error": "no"}]})
                 if each.worse]  # fmt: skip
        assert [each.verdict for each in worse] == ["cannot run"] * count
        for each in worse:
            assert str(each) == "batch 2: 100.00 frames/s then, and now it cannot run: no"
            out = Console(file=io.StringIO(), width=200)
            print_changes([each], [], out)
            assert "cannot run" in out.file.getvalue() and "nothing is slower" not in out.file.getvalue()
    # With a profile that puts a copy in the model's place: what was asked for counts.
    copy = {**new["points"][0], "of": point["model"], "model": {"sha256": "copy"}, "profile": "/p.json"}
    lost = {**gone, "of": point["model"], "error": "no"}
    del lost["model"]
    old["points"][1] = {**old["points"][0], **gone}
    changed = {**new, "points": [copy, lost]}
    verdicts = [each.verdict for each in compare(old, changed) if each.what == "throughput"]
    assert verdicts == ["same", "cannot run"]
    assert "profile: none → /p.json" in differences(old, changed)
    old["points"][1] = {**gone, "error": error_then}
    other = {**gone, "model": {"sha256": "another"}, "error": "no"}
    with pytest.raises(ConfigError, match="no point in common"):
        compare(old, {**new, "points": [other]})


def test_another_gpu_is_said_and_results_that_name_none_are_not_held_to_it(point):
    old, new = report_of(point, 100), report_of(point, 100)
    new["machine"]["gpus"] = ["Card B", "Card B"]
    assert differences(old, new) == []
    old["machine"]["gpus"] = []
    assert differences(old, new) == ["GPUs: none → Card B, Card B"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
def test_ctrl_c_while_the_measuring_process_starts_is_no_traceback(cheap_model):
    command = [sys.executable, "-m", "pipeline", "bench", "synthetic:64x48", "--model", cheap_model]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    said = ""
    while "measuring" not in said and (line := process.stderr.readline()):
        said += line
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.3)  # the process it is forked from imports the libraries
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    said += process.communicate(timeout=30)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said and "0 of 1 points" in said


def test_what_cannot_be_compared(point, tmp_path, capsys):
    other = report_of(point, 100)
    other["points"][0]["asked"] = {"batch": "4"}
    with pytest.raises(ConfigError, match="no point in common"):
        compare(other, report_of(point, 100))
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="no point in common"):  # before anything is measured
        run_bench(capsys, "nanodet-g", compare=str(tmp_path / "other.json"))
    other = report_of(point, 100)
    other["points"][0]["source"] = "another.mp4"
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="no point in common"):  # this one, too
        run_bench(capsys, "nanodet-g", compare=str(tmp_path / "other.json"))
    part = report_of(point, 100)
    del part["points"][0]["fps"]
    damaged = [part]
    for keys in (
        {"windows": [], "counted": 0}, {"fps": 0}, {"fps": "x"}, {"model": None}, {"counted": None},
        {"fps": math.nan}, {"fps": -5}, {"fps": 1e300}, {"windows": [1.0, math.inf, 1.0]},
    ):  # fmt: skip
        damaged.append(report_of(point, 100))
        damaged[-1]["points"][0] |= keys
    for machine in ({}, {"cpu": "c", "cores": 2, "versions": []}):
        damaged.append({**report_of(point, 100), "machine": machine})
    texts = ["{}", "no JSON", "[]", '{"kind": "framerail bench"}', "[" * 100_000, *map(json.dumps, damaged)]
    for text in texts:
        (tmp_path / "old.json").write_text(text)
        with pytest.raises(ConfigError, match="no result of"):
            load(str(tmp_path / "old.json"))
    with pytest.raises(ConfigError, match="cannot read"):
        load(str(tmp_path / "nothing.json"))
    fewer = report_of(point, 100)
    del fewer["points"][0]["stages"]["infer"]  # an older version's
    assert "infer alone" not in {each.what for each in compare(fewer, report_of(point, 100))}
    newer = report_of(point, 100)
    newer["machine"] = {"cpu": "d", "cores": 2, "versions": {"x": "2", "y": "1"}}
    assert differences(other, newer) == ["cpu: c → d", "x: 1 → 2", "y: None → 1"]


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"window": 0}, "--window: expected more than 0 s"),
        ({"window": math.nan}, "--window: expected more than 0 s"),
        ({"most": 0}, "--most: expected more than 0 s"),
        ({"warm_up": -1}, "--warm-up: expected 0 s or more"),
    ],
)
def test_times_that_cannot_be_meant(times, said):
    with pytest.raises(ConfigError, match=said):
        Settings(**times)


def test_what_is_not_steady_says_for_how_long_it_was_measured(cheap_model):
    settings = Settings(warm_up=0, window=0.1, most=0.1, tolerance=0)
    (note,) = [each for each in measure(config_of(cheap_model), settings)["notes"] if "not steady" in each]
    assert "after 0.3 s the last 3 windows" in note


def test_windows_in_which_nothing_comes_are_too_short(cheap_model):
    line = config_of(cheap_model, source="synthetic:64x48@4", live=True)
    with pytest.raises(ConfigError, match=r"no frame came out in most of the windows .*--window"):
        measure(line, Settings(warm_up=0, window=0.02, most=0.06))


# The command -----------------------------------------------------------------------------------


def run_bench(capsys, model, **options):
    quiet = Console(file=io.StringIO())
    options = Options(sources=["synthetic:64x48"], settings=SHORT, run={"model": model}, **options)
    bench(options, quiet, quiet, as_json=True)
    return json.loads(capsys.readouterr().out)


def test_in_a_log_that_may_be_coloured_a_line_says_what_is_measured(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    err = Console(file=io.StringIO(), color_system=None)
    with bench_command._Showing(err) as show:
        show(0, 1, SimpleNamespace(label="workers 2"))
    assert err.file.getvalue() == "measuring: workers 2\n"


def test_interrupted_it_prints_what_was_measured(cheap_model, tmp_path, capsys, monkeypatch):
    real, calls = bench_command.apart, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt  # Ctrl-C in the midst of the third point
        return real(*arguments)

    monkeypatch.setattr("pipeline.commands.bench.apart", interrupted)
    err = Console(file=io.StringIO(), width=200)
    options = Options(
        sources=["synthetic:64x48"], settings=SHORT, run={"model": cheap_model}, sweep=["workers=1,2,3"]
    )
    with pytest.raises(KeyboardInterrupt):
        bench(options, err, err, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert [point["label"] for point in report["points"]] == ["workers 1", "workers 2"]
    assert "interrupted: 2 of 3 points were measured" in err.file.getvalue()
    calls[:] = [(), ()]
    with pytest.raises(KeyboardInterrupt):
        bench(options, err, err, as_json=True)
    assert not capsys.readouterr().out and "interrupted: 0 of 3" in err.file.getvalue()


def test_a_result_of_another_model_costs_no_measurement(cheap_model, tmp_path, capsys):
    old = run_bench(capsys, cheap_model)
    assert old["points"][0]["of"]["sha256"] == old["points"][0]["model"]["sha256"]
    old["points"][0]["of"]["sha256"] = "another"
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(ConfigError, match="no point in common"):
        run_bench(capsys, cheap_model, compare=str(tmp_path / "old.json"))
    assert capsys.readouterr().out == ""  # it is told before anything is measured


def test_the_command_measures_every_point_and_keeps_what_cannot_run(cheap_model, tmp_path, capsys):
    plot = tmp_path / "plot.html"
    report = run_bench(capsys, cheap_model, sweep=["batch=1,9"], streams="1,2", plot=str(plot))
    assert [point["label"] for point in report["points"]] == [
        "batch 1, 1 stream", "batch 1, 2 streams", "batch 9, 1 stream", "batch 9, 2 streams"
    ]  # fmt: skip
    assert all("takes exactly 1 a run" in point["error"] for point in report["points"][2:])
    assert len(report["points"][1]["streams"]) == 2
    page = plot.read_text()
    assert "<svg" in page
    assert "batch 1, 2 streams" in page
    assert "takes exactly 1 a run" in page
    for point in report["points"][:2]:
        point["fps"] *= 10**6
    again = tmp_path / "old.json"
    again.write_text(json.dumps(report))
    report["points"][2] = {**report["points"][0], "asked": report["points"][2]["asked"]}
    again.write_text(json.dumps(report))
    with pytest.raises(SlowerError, match=r"now it cannot run: .*takes exactly 1 a run"):
        run_bench(capsys, cheap_model, sweep=["batch=1,9"], streams="1", compare=str(again))
    assert "cannot run" in capsys.readouterr().out
    with pytest.raises(SlowerError, match="batch 1, 1 stream: throughput is slower"):
        run_bench(capsys, cheap_model, sweep=["batch=1"], streams="1", compare=str(again))
    assert json.loads(capsys.readouterr().out)["compared"][0]["verdict"] == "slower"


def test_a_profile_that_was_gone_by_is_said(point):
    for path, said in ((None, False), ("/p.json", True)):
        report = report_of(point, 100)
        report["points"][0] |= {"profile": path}
        for count in (1, 2):  # in full, and as a table of points
            report["points"] *= count
            out = Console(file=io.StringIO(), width=200)
            print_report(report, out)
            assert out.file.getvalue().count("/p.json") == said


def test_one_point_that_cannot_run_is_an_error(cheap_model, capsys):
    """Its own, with its exit code."""
    with pytest.raises(ConfigError, match="takes exactly 1 a run"):
        run_bench(capsys, cheap_model, sweep=["batch=9"])


def test_a_source_that_cannot_be_opened_ends_with_its_exit_code(cheap_model, capsys):
    quiet = Console(file=io.StringIO())
    address = f"rtsp://127.0.0.1:{free_port()}/x"
    options = Options(sources=[address], settings=SHORT, run={"model": cheap_model})
    with pytest.raises(PipelineError, match="connection refused") as raised:
        bench(options, quiet, quiet, as_json=True)
    assert raised.value.exit_code == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that has no space left")
def test_a_disk_without_room_for_the_plot_costs_the_plot_alone(cheap_model, tmp_path, capsys):
    (tmp_path / "plot.png").symlink_to("/dev/full")
    with pytest.raises(PipelineError, match="No space left"):
        run_bench(capsys, cheap_model, plot=str(tmp_path / "plot.png"))
    assert json.loads(capsys.readouterr().out)["points"][0]["fps"] > 0


def test_then_and_now_end_with_a_verdict_and_show_their_noise(point):
    for fps, verdict in ((100, True), (80, False)):
        out = Console(file=io.StringIO(), width=200)
        print_changes(compare(report_of(point, 100), report_of(point, fps)), [], out)
        assert ("nothing is slower beyond noise" in out.file.getvalue()) is verdict
        assert "5%" in out.file.getvalue()


def test_what_is_wrong_is_said_before_anything_is_measured(cheap_model, tmp_path, capsys):
    begun = time.monotonic()
    for options, error in (
        ({"plot": "plot.txt"}, ConfigError),
        ({"plot": str(tmp_path / "no" / "plot.png")}, SinkOpenError),
        ({"compare": str(tmp_path / "no.json")}, ConfigError),
        ({"sweep": ["speed"]}, ConfigError),
    ):
        with pytest.raises(error):
            run_bench(capsys, cheap_model, **options)
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("asked", [{}, {"streams": 1}])
@pytest.mark.parametrize("kind", [".png", ".svg"])
def test_a_plot_is_a_picture(point, tmp_path, asked, kind):
    report = report_of(point, 100)
    report["machine"]["date"] = "today"
    report["points"] += [dict(report["points"][0])]
    for number, each in enumerate(report["points"]):
        each["asked"] = {key: value + number for key, value in asked.items()}
    path = tmp_path / f"plot{kind}"
    check_plot(str(path))
    write_plot(str(path), report)
    if kind == ".png":
        assert cv2.imread(str(path)).shape[1] > 1000
    else:
        assert "frames/s" in path.read_text() or "<svg" in path.read_text()


def test_files_are_looped_and_cameras_are_not(cheap_model):
    config = Options(sources=["sample:", "rtsp://camera/1"], run={"model": cheap_model}).config()
    assert [stream.loop for stream in config.streams] == [True, False]
    assert Pipeline(config) is not None
