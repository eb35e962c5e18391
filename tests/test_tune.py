"""Finding the fastest setting: the climb on made-up machines, profiles on this one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.cheap_model import write_cheap_model
from pipeline import Pipeline, profiles
from pipeline.bench.tune import FASTER, Climb, Journal, Step, concurrencies, said
from pipeline.commands import tune as tune_command
from pipeline.commands.tune import Options, tune
from pipeline.config import make_config
from pipeline.errors import ConfigError, ModelError, NotAcceptedError, PipelineError, SinkWriteError
from pipeline.runtime.catalog import Located, locate
from pipeline.summary import summarize
from tests.clips import make_clip

STEPS = [
    Step("concurrency", [{"infer_workers": workers} for workers in (1, 2, 3)]),
    Step("batch", [{"batch": size} for size in (2, 4)]),
    Step("precision", [{"model": "int8"}], changes_answers=True),
]


def located(digit):
    """A model that is nowhere."""
    return Located("m", Path("m.onnx"), None, None, digit * 64)


def climb(tmp_path, rate_of, *, loss=0.0, max_loss=0.01, key="k", noise=0.0):
    """A climb on a machine that makes ``rate_of(setting)`` frames/s, give or take ``noise``; its trials."""
    dice, trials = random.Random(0), []

    def run(setting):
        trials.append(dict(setting))
        return rate_of(setting) * (1 + dice.uniform(-noise, noise))

    journal = Journal(tmp_path / "trials.json", {"key": key})
    return Climb(run, lambda _setting: loss, max_loss, journal, lambda _text: None), trials


def rate(setting):
    """Two runs at once are best, batches do nothing, int8 is twice as fast."""
    faster = {1: 80.0, 2: 130.0, 3: 110.0}.get(setting.get("infer_workers"), 100.0)
    return faster * (2.0 if setting.get("model") == "int8" else 1.0)


def test_the_best_of_each_kind_goes_on_top_of_the_others(tmp_path):
    climbing, trials = climb(tmp_path, rate)
    best = climbing.best({}, STEPS)
    assert dict(best.setting) == {"infer_workers": 2, "model": "int8"}
    assert best.rate == 260
    assert {"infer_workers": 2, "batch": 4} in trials
    assert [dict(each.setting) for each in climbing.tried].count({}) == 1


def test_what_is_hardly_faster_is_not_taken(tmp_path):
    """A few per cent are noise: the defaults stay, whatever single trials say."""
    climbing, _ = climb(tmp_path, lambda setting: 100.0 + (FASTER - 1.005) * 100 * bool(setting), noise=0.004)
    assert climbing.best({}, STEPS).setting == {}


def test_what_seems_faster_is_measured_again_in_turn_with_the_best(tmp_path):
    climbing, trials = climb(tmp_path, rate)
    climbing.best({}, STEPS[:1])
    assert trials[-4:] == [{}, {"infer_workers": 2}, {}, {"infer_workers": 2}]


def test_one_lucky_trial_wins_nothing(tmp_path):
    lucky = iter([150.0])

    def run(setting):
        return next(lucky, 100.0) if setting == {"batch": 2} else 100.0

    climbing = Climb(run, lambda _: 0.0, 0.01, Journal(tmp_path / "j", {}), lambda _: None)
    assert climbing.best({}, [STEPS[1]]).setting == {}


def test_what_is_taken_later_costs_what_the_best_so_far_did(tmp_path):
    climbing, _ = climb(tmp_path, rate, loss=0.004)
    best = climbing.best({}, [STEPS[2], *STEPS[:2]])
    assert dict(best.setting) == {"model": "int8", "infer_workers": 2}
    assert best.ap_loss == 0.004


@pytest.mark.parametrize(("loss", "taken"), [(0.009, True), (0.011, False)])
def test_what_costs_too_much_accuracy_is_left_out(tmp_path, loss, taken):
    climbing, _ = climb(tmp_path, rate, loss=loss)
    best = climbing.best({}, STEPS)
    assert ("model" in best.setting) == taken
    assert best.ap_loss == (loss if taken else None)
    if not taken:
        assert "costs 0.0110 AP" in {each.error for each in climbing.tried}


@pytest.mark.parametrize(
    "error", [PipelineError("nothing seen"), ExceptionGroup("sources", [PipelineError("nothing seen")])]
)
def test_what_cannot_be_judged_is_left_out_and_the_rest_goes_on(tmp_path, error):
    def unknown(_setting):
        raise error

    climbing, _ = climb(tmp_path, rate)
    climbing.loss_of = unknown
    best = climbing.best({}, [STEPS[2], STEPS[0]])
    assert dict(best.setting) == {"infer_workers": 2}
    (left_out,) = (each for each in climbing.tried if each.error)
    assert (left_out.setting, left_out.rate) == ({"model": "int8"}, 200)
    assert left_out.error == "its loss of AP cannot be measured: nothing seen"


def test_what_cannot_run_is_left_out_and_the_defaults_must(tmp_path):
    def run(setting):
        if setting.get("batch") == 2:
            raise ExceptionGroup("the line failed", [PipelineError("no such batch")])
        return 100.0

    climbing, _ = climb(tmp_path, run)
    climbing.run = run
    assert climbing.best({}, STEPS).setting == {}
    assert "no such batch" in {each.error for each in climbing.tried}

    def fail(_setting):
        raise PipelineError("no such model")

    climbing, _ = climb(tmp_path, rate, key="other")
    climbing.run = fail
    with pytest.raises(PipelineError, match="no such model"):
        climbing.best({}, STEPS)


@given(st.integers(0, 14))
def test_an_interrupted_tuning_goes_on_where_it_was(tmp_path_factory, after):
    """Stopped after any trial: what was tried is not tried again, and the answer is the same."""
    folder = tmp_path_factory.mktemp("journal")
    climbing, trials = climb(folder, rate)

    def run(setting, through=climbing.run):
        if len(trials) == after:
            raise KeyboardInterrupt
        return through(setting)

    climbing.run = run
    try:
        climbing.best({}, STEPS)
    except KeyboardInterrupt:
        again, more = climb(folder, rate)
        assert again.journal.resumed == after
        assert dict(again.best({}, STEPS).setting) == {"infer_workers": 2, "model": "int8"}
        whole, all_of_them = climb(folder, rate, key="begun anew")
        whole.best({}, STEPS)
        assert trials + more == all_of_them


def test_a_journal_that_cannot_be_read_is_begun_anew(tmp_path):
    path = tmp_path / "trials.json"
    Journal(path, {"key": "k"}).trial({}, 0, lambda: {"fps": 1.0})
    key = json.loads(path.read_text())["key"]
    damaged = ([], {"{}": [{}]}, {"{}": 1}, {"{}": [{"fps": "x"}]}, {"{}": ["fps"]})
    for text in (
        "",
        "[]",
        '{"key": {"key": "k"}}',
        "\0",
        *({"key": key, "trials": each} for each in damaged),
    ):
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        assert Journal(path, {"key": "k"}).resumed == 0
    with pytest.raises(SinkWriteError, match="cannot write"):
        Journal(tmp_path / "trials.json" / "below", {}).trial({}, 0, lambda: {"fps": 1.0})


def test_what_failed_is_tried_again_the_next_time(tmp_path):
    """A file that was damaged, a process that the system ended for want of memory: both may be mended."""

    def fail(_setting):
        raise PipelineError("no memory")

    climbing, _ = climb(tmp_path, rate)
    climbing.run = fail
    with pytest.raises(PipelineError, match="no memory"):
        climbing.best({}, STEPS)
    again, _ = climb(tmp_path, rate)
    assert again.journal.resumed == 0
    assert dict(again.best({}, STEPS).setting) == {"infer_workers": 2, "model": "int8"}


def test_a_journal_has_no_password_in_it(tmp_path):
    path = tmp_path / "trials.json"
    Journal(path, {"source": "rtsp://viewer:c4nary@camera/1"}).trial({}, 0, lambda: {"fps": 1.0})
    assert "c4nary" not in path.read_text() and "fps" in path.read_text()


def test_interrupted_in_the_midst_of_writing_the_trials_before_are_kept(tmp_path, monkeypatch):
    path = tmp_path / "trials.json"
    Journal(path, {}).trial({"batch": 2}, 0, lambda: {"fps": 1.0})

    def half(self, text, **_):
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(KeyboardInterrupt):
            Journal(path, {}).trial({"batch": 4}, 0, lambda: {"fps": 1.0})
    assert Journal(path, {}).resumed == 1


@pytest.mark.parametrize("cores", [1, 2, 4, 7, 32])
def test_runs_at_once_and_threads_fill_the_cores(cores):
    tried = [(each["infer_workers"], each["infer_threads"]) for each in concurrencies(cores)]
    assert len(set(tried)) == len(tried)
    assert {(1, cores), (cores, 1)} <= set(tried)
    assert all(workers * threads <= 2 * cores or threads == 1 for workers, threads in tried)


# Profiles --------------------------------------------------------------------------------------


@pytest.fixture
def found(tmp_path, monkeypatch, cheap_model):
    """A profile for the cheap model: three runs at once."""
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path))

    def save(settings, **more):
        report = {
            "settings": settings,
            "speedup": 1.9,
            "ap_loss": 0.004,
            "truth": "labels",
            "provider": settings.get("provider", "cpu"),
            "date": "2026-11-21",
            **more,
        }
        return profiles.save(locate(cheap_model), report)

    save({"infer_workers": 3, "infer_threads": 1})
    return save


def config_of(model, **options):
    return make_config({"streams": [{"source": "synthetic:64x48?frames=5"}], "model": model, **options})


def test_run_goes_by_it_and_says_so(cheap_model, found, caplog):
    caplog.set_level("INFO")
    with Pipeline(config_of(cheap_model)) as line:
        line.run()
        assert line.flow is not None
        assert sum(thread.name.startswith("infer-") for thread in line.flow._workers) == 3
    assert "profile of 2026-11-21" in caplog.text
    assert "1.90 x as fast" in caplog.text
    assert summarize(line)["profile"] is not None


@pytest.mark.parametrize(
    ("options", "workers"),
    [
        ({"profile": False}, None),
        ({"infer_workers": 1}, 1),
        ({"infer_threads": 2}, None),
        ({"provider": "cpu"}, 3),
        ({"conf_threshold": 0.5}, 3),
    ],
)
def test_what_the_user_sets_stays(cheap_model, found, options, workers):
    config, _ = profiles.applied(config_of(cheap_model, **options))
    assert config.infer_workers == workers
    for key, value in options.items():
        assert getattr(config, key) == value


def test_without_a_home_there_is_no_profile_and_none_is_kept(cheap_model, monkeypatch):
    """As for a container's user whom no file knows: a run goes on, tune says where to keep it."""
    for name in ("FRAMERAIL_PROFILES", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    config = config_of(cheap_model)
    assert profiles.applied(config) == (config, None)
    with pytest.raises(SinkWriteError, match="FRAMERAIL_PROFILES"):
        profiles.save(located("a"), {})


def test_a_profile_for_another_provider_says_nothing(cheap_model, found):
    found({"provider": "openvino", "infer_workers": 3})
    config = config_of(cheap_model, provider="cpu")
    assert profiles.applied(config) == (config, None)


def test_a_smaller_copy_takes_the_models_place_while_it_is_there(cheap_model, found, tmp_path, caplog):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(b"small")
    found({"model": str(copy), "infer_workers": 2}, copy_sha256=hashlib.sha256(b"small").hexdigest())
    config, profile = profiles.applied(config_of(cheap_model))
    assert (config.model, config.infer_workers) == (str(copy), 2)
    assert profile is not None
    copy.write_bytes(b"other")
    assert profiles.applied(config_of(cheap_model))[1] is None
    copy.unlink()
    config, profile = profiles.applied(config_of(cheap_model))
    assert (config.model, config.infer_workers, profile) == (cheap_model, None, None)
    assert "is gone or another" in caplog.text


def test_another_machine_model_or_version_has_another_profile(found):
    here = profiles.here()
    assert set(here) == {"cpu", "cores", "gpu", "framerail", "runtime", "plugins", "numpy"}
    paths = {profiles.path_for(located("a")), profiles.path_for(located("b"))}
    paths |= {profiles.path_for(located("a"), here | {key: "other"}) for key in here}
    assert len(paths) == 2 + len(here)


def test_a_card_that_says_something_else_has_another_profile(cheap_model, tmp_path, monkeypatch):
    """By it a model is fed and read: what was measured with the old one, a copy with its labels, is over."""
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path / "profiles"))
    model, card, labels = (tmp_path / name for name in ("m.onnx", "m.toml", "l.txt"))
    shutil.copy(cheap_model, model)
    text = 'name = "m"\nfile = "m.onnx"\nfamily = "yolov8"\nlabels = "l"\n'
    paths = [profiles.path_for(locate(str(model)))]
    for card_text, label_text in ((text, "a"), (text, "b"), (text + "conf_threshold = 0.5\n", "b")):
        card.write_text(card_text)
        labels.write_text(label_text)
        paths.append(profiles.path_for(locate(str(model))))
        assert profiles.path_for(locate(str(model))) == paths[-1]
    assert len(set(paths)) == 4


def test_a_profile_holds_for_the_input_size_that_was_asked_for(cheap_model, found):
    """A copy is calibrated, measured and labelled at one."""
    assert profiles.applied(config_of(cheap_model))[1] is not None
    assert profiles.applied(config_of(cheap_model, input_size="32x32"))[1] is None
    report = {"settings": {"infer_workers": 2}, "speedup": 1, "ap_loss": 0, "truth": "t", "date": "d"}
    profiles.save(locate(cheap_model), {**report, "provider": "cpu"}, (32, 32))
    config, profile = profiles.applied(config_of(cheap_model, input_size="32x32"))
    assert profile is not None and config.infer_workers == 2
    assert profiles.applied(config_of(cheap_model))[0].infer_workers == 3


@pytest.mark.parametrize("text", ["conf_threshold = 0.5", "no card at all"])
def test_a_card_that_changes_ends_the_tuning_at_the_next_trial(
    cheap_model, tmp_path, monkeypatch, quiet, text
):
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path / "profiles"))
    model, card, trials = tmp_path / "m.onnx", tmp_path / "m.toml", []
    shutil.copy(cheap_model, model)

    def edited(work, config, settings):
        trials.append(config)
        if len(trials) == 2:
            card.write_text(f'name = "m"\nfile = "m.onnx"\nfamily = "yolov8"\n{text}\n')
            if text.startswith("no"):
                raise ModelError("a card that cannot be read")
        return {"fps": 50.0, "model": {"sha256": locate(str(model)).sha256}, "notes": []}

    monkeypatch.setattr(tune_command, "apart", edited)  # instead of trials of some seconds each
    with pytest.raises(ModelError, match="or its card, became another one while it was tuned"):
        tune(Options(source="synthetic:64x48", run={"model": str(model)}), quiet, quiet, as_json=True)
    assert len(trials) == 2
    assert not list((tmp_path / "profiles").iterdir())


@pytest.mark.assets
def test_a_model_that_a_bad_quantisation_has_damaged_is_not_tuned(assets, tmp_path, monkeypatch, quiet):
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path))
    model = str(assets / "models" / "deimv2_atto_int8_msh.onnx")
    options = Options(source="sample:", seconds=0.3, run={"model": model})
    with pytest.raises(NotAcceptedError, match=r"damaged by its quantisation, dynamic int8.*--original"):
        tune(options, quiet, quiet, as_json=True)
    assert list(tmp_path.iterdir()) == []


def test_a_profile_that_cannot_be_read_is_left_out_with_a_warning(cheap_model, found, caplog):
    path = profiles.path_for(locate(cheap_model))
    whole = '"ap_loss": 0, "truth": "t", "date": "d", "provider": "cpu"'
    for text in (
        "", "[]", "{}", '{"settings": 1}', "[" * 200_000,
        f'{{"settings": {{}}, "speedup": {"9" * 400}, {whole}}}',
        f'{{"settings": {{"batch": 0}}, "speedup": 1, {whole}}}',
        f'{{"settings": {{}}, "speedup": NaN, {whole}}}',
        f'{{"settings": {{"model": 5}}, "speedup": 1, {whole}}}',
        f'{{"settings": {{}}, {whole}}}',
        f'{{"settings": [1], "speedup": 1, {whole}}}',
        f'{{"settings": {{"batches": 4}}, "speedup": 1, {whole}}}',
    ):  # fmt: skip
        path.write_text(text)
        config = config_of(cheap_model)
        assert profiles.applied(config) == (config, None)
        assert "cannot be read" in caplog.text
        caplog.clear()


def test_the_command_writes_a_profile_that_run_finds(cheap_model, tmp_path, monkeypatch, capsys, quiet):
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path))
    steps = [Step("concurrency", [{"infer_workers": workers} for workers in (1, 2)])]
    monkeypatch.setattr("pipeline.commands.tune._steps", lambda *_: iter(steps))
    options = Options(source="synthetic:64x48", seconds=0.3, run={"model": cheap_model})
    tune(options, quiet, quiet, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert profiles.load(locate(cheap_model)).settings == report["settings"]
    assert {said(each["setting"]) for each in report["tried"]} == {
        "defaults", "runs at once 1", "runs at once 2"
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [profiles.path_for(locate(cheap_model)).name]


@pytest.mark.parametrize("when", ["while it is tried", "at the end"])
def test_a_model_that_becomes_another_one_meanwhile_leaves_no_profile(
    cheap_model, tmp_path, monkeypatch, quiet, when
):
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path / "profiles"))
    path = tmp_path / "model.onnx"
    shutil.copy(cheap_model, path)

    def export() -> None:
        write_cheap_model(tmp_path / "new.onnx", boxes_cxcywh=((10.0, 10.0, 8.0, 8.0),)).replace(path)

    def steps(*_):
        if when == "while it is tried":
            export()
        yield Step("concurrency", [{"infer_workers": 1}])
        if when == "at the end":
            export()

    monkeypatch.setattr("pipeline.commands.tune._steps", steps)
    options = Options(source="synthetic:64x48", seconds=0.2, run={"model": str(path)})
    with pytest.raises(ModelError, match="became another one while it was tuned; nothing is kept"):
        tune(options, quiet, quiet, as_json=True)
    assert list((tmp_path / "profiles").iterdir()) == []


def test_other_footage_at_the_same_place_is_begun_anew(cheap_model, tmp_path, monkeypatch, quiet):
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path / "profiles"))

    def steps(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("pipeline.commands.tune._steps", steps)
    clip = make_clip(tmp_path / "clip.mp4", frames=10)
    options = Options(source=str(clip), seconds=0.2, run={"model": cheap_model})
    said = []
    for frames in (10, 10, 20):
        if frames == 20:
            make_clip(clip, frames=frames)
        err = Console(file=io.StringIO(), width=200)
        with pytest.raises(KeyboardInterrupt):
            tune(options, quiet, err, as_json=True)
        said.append(
            "going on where an earlier tuning was interrupted, after 1 trial\n" in err.file.getvalue()
        )
    assert said == [False, True, False]


def test_disturbed_trials_are_told_and_no_password_is_kept(cheap_model, tmp_path, monkeypatch, capsys, quiet):
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setattr("pipeline.commands.tune._steps", lambda *_: iter(()))
    busy = "disturbed: other processes used 1.00 of 2 cores"
    found = {"fps": 50.0, "model": {"sha256": locate(cheap_model).sha256}, "notes": [busy, "another"]}
    monkeypatch.setattr("pipeline.commands.tune.apart", lambda *_: found)  # no trial is disturbed at will
    options = Options(source="rtsp://viewer:c4nary@127.0.0.1/x", run={"model": cheap_model})
    err = Console(file=io.StringIO(), width=300)
    tune(options, quiet, err, as_json=True)
    assert "note: 1 trial was disturbed: other processes used 1.00 of 2 cores" in err.file.getvalue()
    (profile,) = (tmp_path / "profiles").iterdir()
    assert "c4nary" not in profile.read_text() + capsys.readouterr().out + err.file.getvalue()


def test_two_at_once_are_one_too_many(cheap_model, tmp_path, monkeypatch, quiet):
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path))
    options = Options(source="synthetic:64x48", seconds=0.2, run={"model": cheap_model})
    path = profiles.path_for(locate(cheap_model)).with_suffix(".trials.json")
    with profiles.alone(path), pytest.raises(ConfigError, match="is being tuned already, by another"):
        tune(options, quiet, quiet, as_json=True)
    with profiles.alone(path):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_profile_that_the_model_cannot_take_is_named(cheap_model, found):
    found({"batch": 9})
    with pytest.raises(ConfigError, match=r"takes exactly 1 a run; .*profile says: batch; --no-profile"):
        Pipeline(config_of(cheap_model)).__enter__()


def test_however_a_size_is_written_it_is_one_tuning(cheap_model, tmp_path, monkeypatch, quiet):
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path))
    monkeypatch.setattr("pipeline.commands.tune._steps", lambda *_: iter([STEPS[0]]))
    trials = []

    def interrupted(*_):
        trials.append(1)
        if len(trials) == 2:
            raise KeyboardInterrupt
        return {"fps": 50.0, "model": {"sha256": locate(cheap_model).sha256}, "notes": []}

    monkeypatch.setattr("pipeline.commands.tune.apart", interrupted)  # instead of trials of some seconds
    err, out = Console(file=io.StringIO(), width=300), Console(file=io.StringIO(), width=300)
    for size in ("32", "32x32"):
        options = Options(source="synthetic:64x48", run={"model": cheap_model, "input_size": size})
        with contextlib.suppress(KeyboardInterrupt):
            tune(options, out, err, as_json=False)
    assert "going on where an earlier tuning was interrupted, after 1 trial" in err.file.getvalue()
    assert "run --input-size 32x32 " in out.file.getvalue()


def test_interrupted_it_says_that_nothing_is_lost(cheap_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path))
    monkeypatch.setattr("pipeline.commands.tune._steps", lambda *_: iter([STEPS[0]]))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.commands.tune.apart", interrupted)  # Ctrl-C in the midst of a trial
    err = Console(file=io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        tune(Options(source="synthetic:64x48", run={"model": cheap_model}), err, err, as_json=True)
    assert "interrupted: what was tried is kept, and the same command goes on" in err.file.getvalue()
    with pytest.raises(KeyboardInterrupt):
        tune(
            Options(source="synthetic:64x48", run={"model": cheap_model}, fresh=True), err, err, as_json=True
        )
    assert "the same command without --fresh goes on" in err.file.getvalue()


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_seconds_that_cannot_be_meant(cheap_model, quiet, seconds):
    with pytest.raises(ConfigError, match=r"^--seconds: expected more than 0"):
        tune(
            Options(source="sample:", run={"model": cheap_model}, seconds=seconds), quiet, quiet, as_json=True
        )


@pytest.mark.parametrize(
    ("settings", "meant"), [({}, "run stays as it is"), ({"batch": 2}, "run goes by it from now on")]
)
def test_what_run_makes_of_it_is_told(settings, meant):
    shown = Console(file=io.StringIO(), width=200)
    tune_command._print(
        {
            "tried": [], "copies": [], "model": {"name": "m"}, "settings": settings, "fps": 1.0,
            "speedup": 1.0, "ap_loss": 0.0, "truth": "labels", "profile": "p.json", "default_fps": 1.0,
            "input_size": None,
        },
        shown,
    )  # fmt: skip
    assert meant in shown.file.getvalue()
