"""Copies that bench and tune measure: made once, found again, refused with figures, beside the rate."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile

import matplotlib
import pytest
from rich.console import Console

from pipeline import profiles
from pipeline.bench import Settings
from pipeline.bench.axes import Planned, parse_sweep, usual
from pipeline.bench.compare import compare, differences
from pipeline.bench.plot import write_plot
from pipeline.bench.table import print_report
from pipeline.bench.tune import said
from pipeline.commands import tune as tune_command
from pipeline.commands.bench import Options as Bench
from pipeline.commands.bench import bench
from pipeline.commands.bench_precision import prepared
from pipeline.config import make_config
from pipeline.copies import quantize
from pipeline.copies.kept import made
from pipeline.copies.loss import Options
from pipeline.errors import ConfigError
from pipeline.quantization import int8
from pipeline.runtime.card import sha256_of
from pipeline.runtime.catalog import locate
from pipeline.runtime.model import open_model
from tests.conftest import ROOT
from tests.tiny_detector import write_coloured, write_tiny_detector

pytest.importorskip("faster_coco_eval", reason="needs the extra eval")

SHORT = Settings(warm_up=0.1, window=0.25, most=1.0)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Where copies are kept."""
    folder = tmp_path / "kept"
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(folder))
    return folder


@pytest.fixture
def footage(tmp_path):
    (tmp_path / "footage").mkdir()
    return write_coloured(tmp_path / "footage")


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_detector(tmp_path / "tiny.onnx")


@pytest.fixture
def hopeless(tmp_path):
    """It survives the quantisation of none of its layers."""
    return write_tiny_detector(tmp_path / "hopeless.onnx", outlier=3000.0, everywhere=True)


def copy_of(model, footage, *, fresh=False, **options):
    """A copy, and what was told while it was made or found."""
    told = []
    asked = Options(model=str(model), calibrate=[str(footage)], **options)
    quiet = Console(file=io.StringIO())
    return made(asked, open_model(str(model), "cpu"), quiet, told.append, fresh=fresh), told


# Made once --------------------------------------------------------------------------------------


def test_a_copy_is_made_once_and_is_the_file_that_was_measured(tiny, footage, kept):
    copy, told = copy_of(tiny, footage)
    assert told == ["making a copy in int8"]
    assert copy.sha256 == hashlib.sha256(copy.path.read_bytes()).hexdigest()
    inside = json.loads(open_model(str(copy.path), "cpu").session.metadata["framerail.quantized"])
    assert inside["source"]["sha256"] == sha256_of(tiny)
    assert inside["measured"]["loss"] == copy.ap_loss
    again, told = copy_of(tiny, footage)
    assert (again, told) == (copy, [])
    assert copy_of(tiny, footage, fresh=True)[1] == ["making a copy in int8"]
    assert said({"model": str(copy.path)}) == "model in int8"


def test_another_copy_for_all_that_changes_one(tiny, footage, kept, tmp_path):
    paths = {copy_of(tiny, footage)[0].path}
    for options in ({"max_ap_loss": 0.2}, {"precision": "fp16"}, {"frames": 6}):
        paths.add(copy_of(tiny, footage, **options)[0].path)
    os.utime(footage / "00.png", ns=(0, 0))  # other pictures by the same name
    paths.add(copy_of(tiny, footage)[0].path)
    card = 'name = "tiny"\nfile = "tiny.onnx"\nfamily = "yolov8"\nlabels = ["R", "G", "B"]\n'
    (tmp_path / "tiny.toml").write_text(card)
    paths.add(copy_of(tiny, footage)[0].path)
    assert len(paths) == 6
    assert copy_of(tiny, footage, max_ap_loss=0.2)[0].path not in paths  # the card holds for all of them
    assert copy_of(tiny, footage, max_ap_loss=0.1)[1] == []  # what it would be without saying it
    assert copy_of(tiny, footage, input_size="64")[0].path not in paths
    assert copy_of(tiny, footage, input_size="64x64")[1] == []  # the same, written otherwise


def test_a_copy_of_a_model_that_became_another_one_is_not_kept(tiny, footage, kept):
    opened = open_model(str(tiny), "cpu")
    write_tiny_detector(tiny, outlier=5.0)
    assert sha256_of(tiny) != opened.sha256
    quiet = Console(file=io.StringIO())
    copy = made(Options(model=str(tiny), calibrate=[str(footage)]), opened, quiet, lambda _: None)
    assert copy.path is None and "became another one meanwhile" in copy.why
    assert not [path for path in kept.rglob("*") if path.is_file()]


def test_a_copy_of_a_model_whose_card_became_another_one_is_not_kept(tiny, footage, kept, monkeypatch):
    """Opened with the old card; the copy is made, or measured, with the new one."""
    card = tiny.with_suffix(".toml")
    text = 'name = "t"\nfile = "tiny.onnx"\nfamily = "yolov8"\nlabels = ["R", "G", "B"]\n'
    quiet = Console(file=io.StringIO())

    def tried():
        return made(Options(model=str(tiny), calibrate=[str(footage)]), opened, quiet, lambda _: None)

    opened = open_model(str(tiny), "cpu")
    card.write_text(text)
    copy = tried()
    assert copy.path is None and "became another one meanwhile" in copy.why
    opened, speed = open_model(str(tiny), "cpu"), quantize.speed

    def edited(*arguments):
        card.write_text(text + "conf_threshold = 0.4\n")
        return speed(*arguments)

    monkeypatch.setattr(quantize, "speed", edited)  # the last thing that is done before it is kept
    copy = tried()
    assert copy.path is None and "became another one meanwhile" in copy.why
    assert not [path for path in kept.rglob("*") if path.is_file()]


def test_a_copy_that_is_not_whole_is_made_anew(tiny, footage, kept):
    whole = copy_of(tiny, footage)[0].path
    about = whole.with_suffix(".json")
    text = about.read_text()
    for damage in (
        lambda: whole.write_bytes(b"half of it"),
        whole.unlink,
        about.unlink,
        lambda: about.write_text(text[:100]),
        lambda: about.write_text("[]"),
        lambda: about.write_text(json.dumps(json.loads(text) | {"report": {}})),
    ):
        damage()
        copy, told = copy_of(tiny, footage)
        assert (copy.path, told) == (whole, ["making a copy in int8"])
        assert sha256_of(whole) == copy.sha256


def test_interrupted_it_leaves_nothing_and_is_made_next_time(tiny, footage, kept, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "work"))

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(int8, "quantised_copy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy_of(tiny, footage)
    assert list(kept.iterdir()) == list((tmp_path / "work").iterdir()) == []
    assert copy_of(tiny, footage)[0].path.is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGINT)])
def test_a_signal_lets_go_of_the_unfinished_copy(tiny, footage, tmp_path, number):
    """As ``timeout`` sends it, after the calibration: whole models lie in the folder for temporary files."""
    (tmp_path / "work").mkdir()
    start = (
        "import signal; from pipeline import __main__; from pipeline.quantization import int8\n"
        f"def interrupted(*_): signal.raise_signal({int(number)})\n"
        "int8.quantised_copy = interrupted; __main__.main()"
    )
    arguments = ["models", "quantize", str(tiny), "--calibrate", str(footage), "--output", "small.onnx"]
    done = subprocess.run(
        [sys.executable, "-c", start, *arguments],
        capture_output=True, text=True, timeout=50, cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "work"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert list((tmp_path / "work").iterdir()) == []
    assert not (tmp_path / "small.onnx").exists()


def test_a_refusal_is_kept_with_its_figures_and_can_be_undone(hopeless, footage, kept):
    copy, _ = copy_of(hopeless, footage)
    assert (copy.path, copy.sha256) == (None, None)
    assert copy.ap_loss > 0.5
    assert f"the loss of {copy.ap_loss:.4f} is over the limit, 0.1" in copy.why
    (about,) = kept.iterdir()
    again, told = copy_of(hopeless, footage)
    assert (again.ap_loss, told) == (copy.ap_loss, [])
    assert again.why.startswith(copy.why)
    assert f"without the file {about} it is tried anew" in again.why
    about.unlink()
    assert copy_of(hopeless, footage)[1] == ["making a copy in int8"]


def test_what_cannot_be_made_is_said_and_not_kept(cheap_model, tiny, footage, kept, tmp_path, monkeypatch):
    copy, _ = copy_of(cheap_model, footage)
    assert (copy.path, copy.ap_loss, dict(copy.report)) == (None, None, {})
    assert "has no convolution" in copy.why
    small = copy_of(tiny, footage)[0].path
    assert "quantised already, static int8" in copy_of(small, footage)[0].why
    assert "no such file" in copy_of(tiny, tmp_path / "nothing.mp4")[0].why
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        assert "pip install 'framerail[convert]'" in copy_of(tiny, footage, frames=5)[0].why
        assert copy_of(tiny, footage)[0].path == small  # what is there needs no onnx
    assert {path.stem for path in kept.iterdir()} == {small.stem}
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tiny / "below"))
    assert "Not a directory" in copy_of(tiny, footage)[0].why


# bench --sweep precision ------------------------------------------------------------------------


def test_the_axis(tiny):
    model = open_model(str(tiny), "cpu")
    assert parse_sweep(["precision=float32,int8,float16"]) == {"precision": ("float32", "int8", "float16")}
    with pytest.raises(ConfigError, match="precision is one of float32, int8, float16; got 'fp16'"):
        parse_sweep(["precision=fp16"])
    assert usual(model, {"precision": ()})["precision"] == ("float32", "int8")
    swept = {"provider": ("cpu", "cuda"), "precision": ()}
    assert usual(model, swept)["precision"] == ("float32", "int8", "float16")


def planned(model, footage, precision, **options):
    config = make_config({"streams": [{"source": str(footage)}], "model": str(model), **options})
    return Planned(config, {"precision": precision})


def ready(model, *points):
    quiet = Console(file=io.StringIO())
    return prepared(points, open_model(str(model), "cpu"), quiet, lambda _: None)


def test_a_file_that_is_not_float32_is_measured_and_says_so(tiny, footage, kept):
    for precision, word in (("int8", "static int8"), ("fp16", "float16")):
        small = copy_of(tiny, footage, precision=precision)[0].path
        (point,) = ready(small, planned(small, footage, "float32"))
        assert point.error == ""
        assert f"not float32: {word}" in point.notes[0]
        assert point.about["ap_loss"] is None, "what it has lost is not known"
        (point,) = ready(small, planned(small, footage, "int8"))
        assert point.error.startswith("no int8: model ")
    assert ready(tiny, planned(tiny, footage, "float32"))[0].notes == []


def test_a_profile_that_names_a_copy_does_not_choose_the_precision(tiny, footage, kept):
    copy = copy_of(tiny, footage)[0]
    settings = {"model": str(copy.path), "infer_workers": 2}
    about = {"speedup": 2.0, "ap_loss": 0.0, "truth": "labels", "provider": "cpu", "date": "today"}
    path = profiles.save(locate(str(tiny)), {"settings": settings, "copy_sha256": copy.sha256, **about})
    for precision, model in (("float32", tiny), ("int8", copy.path)):
        (point,) = ready(tiny, planned(tiny, footage, precision))
        assert str(path) in point.notes[0]
        config = profiles.applied(point.planned.config)[0]
        assert (config.model, config.infer_workers) == (str(model), None)
        assert ready(tiny, planned(tiny, footage, precision, profile=False))[0].notes == []


def run_bench(model, footage, capsys, **options):
    quiet = Console(file=io.StringIO())
    given = Bench(sources=[str(footage)], settings=SHORT, run={"model": str(model)}, **options)
    bench(given, quiet, quiet, as_json=True)
    return json.loads(capsys.readouterr().out)


def shown(report):
    out = Console(file=io.StringIO(), width=200)
    print_report(report, out)
    return out.file.getvalue()


def test_each_precision_is_a_point_with_what_it_has_lost(tiny, footage, kept, tmp_path, capsys):
    plot = tmp_path / "plot.html"
    report = run_bench(tiny, footage, capsys, sweep=["precision=float32,int8,float16"], plot=str(plot))
    whole, small, half = report["points"]
    assert [point["label"] for point in report["points"]] == [
        "precision float32", "precision int8", "precision float16"
    ]  # fmt: skip
    # It is the copies that ran, calibrated on the very pictures, and compared with the model.
    assert whole["model"]["sha256"] == sha256_of(tiny)
    for point, precision in ((small, "int8"), (half, "fp16")):
        copy, told = copy_of(tiny, footage, precision=precision)
        assert told == []
        assert point["model"]["sha256"] == point["precision"]["copy_sha256"] == copy.sha256
        assert point["precision"]["ap_loss"] == copy.report["measured"]["loss"]
        assert point["precision"]["of"]["sha256"] == sha256_of(tiny)
    assert whole["precision"]["ap_loss"] == 0
    assert "computes float16 in float32" in half["notes"][-1]
    assert not any("float16" in note for note in whole["notes"] + small["notes"])
    text = shown(report)
    row = next(line for line in text.splitlines() if "precision int8" in line)
    assert f"{small['precision']['ap_loss']:.4f}" in row
    assert "AP lost: against the model's own detections on the sources" in text
    page = plot.read_text()
    assert "<th>AP lost</th>" in page
    assert f"<td>{small['precision']['ap_loss']:.4f}</td>" in page
    # Made anew, a copy is another file and still the same point.
    for point in report["points"]:
        point["windows"] = [point["fps"]] * 3  # as on a quiet machine: no noise hides the change below
    newer = json.loads(json.dumps(report))
    newer["points"][1]["model"]["sha256"] = newer["points"][1]["precision"]["copy_sha256"] = "0" * 64
    newer["points"][1]["precision"]["ap_loss"] = 0.25
    newer["points"][1]["fps"] /= 10
    newer["points"][1]["windows"] = [newer["points"][1]["fps"]] * 3
    slower = [
        each for each in compare(report, newer) if each.what == "throughput" and each.verdict == "slower"
    ]
    assert [each.point for each in slower] == ["precision int8"]
    (said,) = differences(report, newer)
    assert said.startswith("precision int8: another copy of the model: ") and said.endswith(
        "→ 0.2500 AP lost"
    )
    assert differences(report, report) == []


def test_one_point_and_bars_and_lines_of_a_plot_say_what_is_lost(tiny, footage, kept, tmp_path, capsys):
    report = run_bench(tiny, footage, capsys, sweep=["precision=float32"], streams="1")
    assert "precision float32, 1 stream: 0.0000 AP lost" in shown(report)
    (point,) = report["points"]
    point["precision"]["ap_loss"] = 0.0625
    for asked in ([{}, {}], [{"streams": 1}, {"streams": 2}]):
        report["points"] = [{**point, "asked": {"precision": "int8", **each}} for each in asked]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text, not its outlines
            write_plot(str(tmp_path / "plot.svg"), report)
        assert "0.0625 AP lost" in (tmp_path / "plot.svg").read_text()


def test_a_refused_precision_is_part_of_the_result(hopeless, footage, kept, capsys):
    report = run_bench(hopeless, footage, capsys, sweep=["precision=float32,int8"])
    whole, refused = report["points"]
    assert "error" not in whole
    precision = refused["precision"]
    assert (precision["accepted"], precision["copy_sha256"]) == (False, None)
    assert precision["ap_loss"] == precision["measured"]["loss"] > 0.5
    assert "int8 refused: AP 1.0000 → " in refused["error"]
    assert "models quantize --max-ap-loss 1" in refused["error"]
    row = next(line for line in shown(report).splitlines() if line.strip().startswith("precision int8"))
    assert row.split()[2:] == ["–", f"{precision['ap_loss']:.4f}", "refused"]


# tune -------------------------------------------------------------------------------------------


def test_tune_reports_the_copy_that_was_refused(hopeless, footage, kept, capsys):
    options = tune_command.Options(
        source=str(footage),
        seconds=0.3,
        run={"model": str(hopeless), "provider": "cpu", "infer_workers": 1},
    )
    quiet = Console(file=io.StringIO(), width=300)
    tune_command.tune(options, quiet, quiet, as_json=True)
    report = json.loads(capsys.readouterr().out)
    (copy,) = report["copies"]
    assert (copy["precision"], copy["accepted"]) == ("int8", False)
    assert copy["ap_loss"] == copy["measured"]["loss"] > 0.5
    assert all("model" not in each["setting"] for each in report["tried"])
    tune_command._print(report, quiet)
    assert "no copy: AP 1.0000 → " in quiet.file.getvalue()
