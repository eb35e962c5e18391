"""The comparison with other programs: what counts as equal, whose turn it is, what a ratio is of."""

from __future__ import annotations

import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers import __main__ as command
from benchmarks.peers.agreement import LEAST_SHARE, Found, agreement
from benchmarks.peers.measure import Asked, chosen, measure
from benchmarks.peers.report import markdown, notes
from benchmarks.peers.rounds import PeerError, figures, ratios, rotated, run, spread
from benchmarks.peers.setup import SetupError, make
from benchmarks.peers.table import ENVIRONMENTS, OURS, PEERS, REFERENCE, TUNED
from pipeline import profiles
from pipeline.runtime.catalog import locate
from tests.clips import make_clip

# Equal detections ------------------------------------------------------------------------------


def found(*rows, frames=3):
    """Detections from rows of frame, left, top, right, bottom, score, class."""
    table = np.array(rows, np.float32).reshape(-1, 7)
    return Found(
        frames,
        table[:, 0].astype(np.int64),
        np.ascontiguousarray(table[:, 1:5]),
        table[:, 5],
        table[:, 6].astype(np.int32),
    )


BOX = (0, 10, 10, 110, 110, 0.9, 1)


def test_the_same_is_equal():
    both = found(BOX, (2, 0, 0, 50, 50, 0.31, 0))
    assert agreement(both, both).data() == {
        "equal": True, "share": 1.0, "reference": 2, "found": 2, "other": 2, "confirmed": 2
    }  # fmt: skip
    assert agreement(found(), found()).share == 1.0


@pytest.mark.parametrize(
    ("other", "share"),
    [
        ((0, 10, 10, 110, 111.9, 0.9, 1), 1.0),  # IoU 100 ÷ 101.9 = .981
        ((0, 10, 10, 110, 112.1, 0.9, 1), 0.0),  # .979
        ((0, 10, 10, 110, 110, 0.9, 2), 0.0),
        ((1, 10, 10, 110, 110, 0.9, 1), 0.0),
        ((0, 10, 10, 110, 110, 0.29, 1), 1.0),  # a score may fall on either side
    ],
)
def test_equal_is_the_same_class_and_frame_and_nearly_the_same_box(other, share):
    assert agreement(found(BOX), found(other)).share == share


def test_both_ways_count():
    """Who finds everything and more besides does not detect the same; weak boxes are nobody's concern."""
    more = found(BOX, (0, 300, 300, 400, 400, 0.5, 1), (0, 500, 300, 600, 400, 0.3, 1))
    assert (
        agreement(found(BOX), more).data() | {"share": 0.5, "equal": False}
        == agreement(found(BOX), more).data()
    )
    assert agreement(more, found(BOX)).share == 0.5


def test_one_box_is_not_found_twice():
    near = (0, 10, 10, 110, 110.5, 0.8, 1)
    told = agreement(found(BOX, near), found(BOX))
    assert (told.reference, told.found) == (2, 1)
    assert agreement(found(BOX, near), found(near, BOX)).share == 1.0


def test_one_in_two_hundred_may_differ():
    rows = [(0, 20 * n, 0, 20 * n + 10, 10, 0.9, 0) for n in range(400)]
    assert agreement(found(*rows), found(*rows[2:])).share == LEAST_SHARE
    assert agreement(found(*rows), found(*rows[2:])).equal
    assert not agreement(found(*rows), found(*rows[3:])).equal


def test_other_numbers_of_frames_cannot_be_compared():
    with pytest.raises(ValueError, match="3 and 4"):
        agreement(found(BOX), found(BOX, frames=4))


# Turns and ratios ------------------------------------------------------------------------------


@given(st.integers(1, 9))
def test_every_round_has_everybody_and_each_is_first_in_turn(count):
    names = list(range(count))
    rounds = [rotated(names, number) for number in range(2 * count)]
    assert all(sorted(order) == names for order in rounds)
    assert sorted(order[0] for order in rounds) == sorted(names * 2)
    for a, b in itertools.combinations(names, 2):
        assert sum(order.index(a) < order.index(b) for order in rounds) == count


def one(frames, seconds, others=0.0):
    return {"frames": frames, "seconds": seconds, "cpu_seconds": 1.5 * seconds, "others_cores": others}


def test_a_ratio_is_of_one_round_and_of_rates():
    """The machine was half as fast in the second round: for both, so that it does not show."""
    ours, theirs = [one(100, 2), one(100, 4), one(100, 2)], [one(100, 3), one(100, 6), one(50, 2)]
    assert ratios(ours, theirs) == [1.5, 1.5, 2.0]
    said = {OURS: ours, REFERENCE: theirs, TUNED: [one(100, 1)] * 3}
    told = figures(REFERENCE, said)
    assert told["ratios"] == {
        OURS: {"median": 1.5, "min": 1.5, "max": 2.0},
        TUNED: {"median": 4.0, "min": 3.0, "max": 6.0},
    }
    assert told["fps"] == spread([100 / 3, 100 / 6, 25])
    assert told["cores_used"]["median"] == 1.5
    assert told["cpu_ms_per_frame"]["max"] == pytest.approx(90)
    assert figures(REFERENCE, {OURS: [], REFERENCE: []}) == {}


# The environments ------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=list(ENVIRONMENTS))
def test_every_version_is_fixed_and_no_address_is_named(environment):
    lines = environment.constraints.read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    assert set(environment.requirements) <= {line.partition("==")[0] for line in lines}


def test_every_adapter_is_there():
    assert all(peer.script.is_file() for peer in PEERS.values())


def test_an_environment_that_cannot_be_made_says_why_then_and_later(tmp_path):
    with pytest.raises(SetupError, match="cannot run no-such-python"):
        make(ENVIRONMENTS["openvino"], tmp_path, "no-such-python")
    with pytest.raises(PeerError, match="openvino: cannot run no-such-python"):
        run(PEERS["openvino"], None, tmp_path, tmp_path)
    with pytest.raises(
        PeerError, match=r"no environment 'plain'; make it: python -m benchmarks\.peers\.setup"
    ):
        run(PEERS["opencv"], None, tmp_path, tmp_path)


# All of it -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def venvs(tmp_path_factory):
    """An environment ``plain`` that is this one."""
    folder = tmp_path_factory.mktemp("venvs")
    python = ENVIRONMENTS["plain"].python(folder)
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=60)


@pytest.fixture(scope="module")
def asked(cheap_model, clip, venvs):
    return Asked(
        model=cheap_model, clip=str(clip), venvs=venvs, rounds=1, frames=15, warm_up=5, peers=("openvino",)
    )


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for an environment is a shell script")
def test_framerail_beside_the_plain_loop(asked):
    told = []
    report = json.loads(json.dumps(measure(asked, told.append)))
    assert set(report["peers"]) == {OURS, REFERENCE}
    for peer in report["peers"].values():
        assert peer["agreement"] == {
            "equal": True, "share": 1.0, "reference": 20, "found": 20, "other": 20, "confirmed": 20
        }  # fmt: skip
        assert len(peer["rounds"]) == 1
        assert peer["versions"]["onnxruntime"]
    assert report["peers"][OURS]["ratios"][OURS]["median"] == 1.0
    theirs = report["peers"][REFERENCE]
    assert theirs["ratios"][OURS]["median"] == pytest.approx(
        report["peers"][OURS]["fps"]["median"] / theirs["fps"]["median"]
    )
    assert "no environment 'openvino'" in report["skipped"]["openvino"]
    assert told[0].startswith("plain: 100.00%")
    page = markdown(report)
    assert "| framerail run, JSON Lines |" in page
    assert "skipped: openvino: no environment" in page
    assert "the published figures are of 1080p H.264; this clip is h264 64x48" in page
    # Other detections, and a busy machine, are said.
    theirs["agreement"] |= {"equal": False, "share": 0.9}
    for peer in report["peers"].values():
        peer["others_cores"] = spread([0.5])
    assert "no: 90.00%" in markdown(report)
    said = "\n".join(notes(report))
    assert "plain does not detect" in said
    assert "up to 0.50 cores" in said


def test_framerail_with_another_model_or_as_it_was_tuned(asked):
    plain = chosen(asked)
    assert (plain[OURS].options, TUNED in plain) == ({}, False)
    other = chosen(replace(asked, tuned="int8.onnx", tuned_options={"batch": 2}))[TUNED]
    assert other.model == str(Path("int8.onnx").resolve())
    assert other.options == {"batch": 2}
    tuned = chosen(replace(asked, tuned="", options={"batch": 2}))
    assert (tuned[OURS].options, tuned[TUNED].model) == ({"batch": 2}, None)
    assert tuned[TUNED].options["profile"] is True


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for an environment is a shell script")
def test_only_the_tuned_one_goes_by_the_profile(asked, monkeypatch, tmp_path):
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path))
    only = replace(asked, peers=(), tuned="", rounds=0)
    report = measure(only, print)
    assert set(report["peers"]) == {OURS, REFERENCE}
    assert "no profile of this model for this machine" in report["skipped"][TUNED]
    settings = {"provider": "cpu", "infer_workers": 1}
    profile = {"settings": settings, "provider": "cpu", "speedup": 1.0, "ap_loss": 0.0}
    profile |= {"truth": "labels", "date": "today"}
    profiles.save(locate(asked.model), profile)
    report = measure(only, print)
    assert {name: peer["profile"] for name, peer in report["peers"].items()} == {
        OURS: None, REFERENCE: None,
        TUNED: {**settings, "ap_loss": 0.0, "truth": "labels", "copy_sha256": None},
    }  # fmt: skip
    assert report["peers"][TUNED]["agreement"] is None


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for an environment is a shell script")
def test_the_command(asked, tmp_path, capsys):
    kept = tmp_path / "result.json"
    arguments = ["--model", asked.model, "--clip", asked.clip, "--venvs", str(asked.venvs), "--rounds", "0"]
    arguments += ["--frames", "15", "--warm-up", "5", "--peers", "plain", "--json", str(kept)]
    assert command.main(arguments) == 0
    assert "100.00%" in capsys.readouterr().out
    assert json.loads(kept.read_text())["peers"][OURS]["agreement"]["equal"]
    # Boxes under its own threshold are not found by framerail: the exit code says that it differs.
    assert command.main([*arguments, "--options", '{"conf_threshold": 0.95}']) == 1
    assert "no: 0.00%" in capsys.readouterr().out


def test_what_cannot_be_measured_is_said(asked, capsys):
    with pytest.raises(PeerError, match="expected at least 97 frames"):
        measure(replace(asked, frames=60), print)
    with pytest.raises(PeerError, match="cannot be read"):
        measure(replace(asked, clip=__file__), print)
    with pytest.raises(SystemExit):
        command.main(["--model", "m", "--clip", "c", "--peers", "plain,tuna"])
    assert "no peer 'tuna'; there are: framerail, plain" in capsys.readouterr().err
    assert command.main(["--model", "m", "--clip", str(Path(asked.clip).with_name("no.mp4"))]) == 1
    assert "error: --clip:" in capsys.readouterr().err
