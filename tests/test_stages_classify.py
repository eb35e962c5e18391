"""The second stage: crops of objects through a real classifier, batched, remembered, in order."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console

from pipeline.accounts import Accounts
from pipeline.classification import Labels
from pipeline.config import make_config
from pipeline.console import print_summary
from pipeline.decide import Depths
from pipeline.detections import Detections
from pipeline.errors import ConfigError, ModelError
from pipeline.flow import Bypass, Channel, Flow
from pipeline.frame import Frame, Result
from pipeline.metrics import Collector
from pipeline.runtime.model import Model, open_model
from pipeline.stages.classify import Classify
from pipeline.stages.match import Match, Matched
from pipeline.summary import summarize

COLOURS = {"grey": (90, 90, 90), "red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


def write_colour_classifier(path: Path, batch: int | str = "n") -> Path:
    """A classifier that says which of red, green and blue a picture is most of; its card beside it."""
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Mul", ["flat", "ten"], ["logits"]),
        ],
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor("ten", TensorProto.FLOAT, [1], [10.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    path.with_suffix(".toml").write_text(
        f'name = "colours"\nfile = "{path.name}"\nfamily = "classifier-unit"\n'
        'labels = ["red", "green", "blue"]\n'
    )
    return path


@pytest.fixture(params=["n", 1, 4])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    return open_model(str(write_colour_classifier(tmp_path / "colours.onnx", request.param)), "cpu")


class Counting:
    """A session that counts the pictures that go through the one behind it."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[int] = []
        run = model.session.run

        def counted(blob: np.ndarray) -> object:
            self.runs.append(len(blob))
            return run(blob)

        monkeypatch.setattr(model.session, "run", counted)


class Second:
    """Both halves of the stage, one after the other."""

    def __init__(self, model: Model, class_ids: list[int] | None, every: int) -> None:
        self.match = Match(model.labels, class_ids, every)
        self.classify = Classify(model)

    def __call__(self, results: list[Result]) -> list[Result]:
        return self.classify(self.match(results))


def scene(seq: int, objects: list[tuple[str, int, int, int]], stream: str = "a") -> Result:
    """A grey picture with squares: colour, left, top and class of each."""
    image = np.full((120, 200, 3), 90, np.uint8)
    boxes = []
    for colour, left, top, _ in objects:
        image[top : top + 20, left : left + 20] = COLOURS[colour]
        boxes.append([left, top, left + 20, top + 20])
    found = Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(len(objects), 0.9, np.float32),
        np.array([kind for *_, kind in objects], np.int32),
        ("car", "person"),
    )
    return Result(Frame(stream, seq, image, None, None, time.monotonic(), time.time()), found)


def answers(result: Result) -> list[str | None]:
    assert result.detections.second is not None
    return result.detections.second.labels


def test_each_object_is_taken_for_what_it_is(model: Model) -> None:
    stage = Second(model, None, every=10)
    colours = ["red", "green", "blue", "green", "red"]
    (result,) = stage([scene(0, [(c, 5 + 30 * i, 10, 0) for i, c in enumerate(colours)])])
    assert answers(result) == colours
    assert (result.detections.second.confidence > 0.9).all()
    assert result.detections.names == ("car", "person")


def test_what_is_not_above_the_classifiers_own_threshold_is_no_answer(tmp_path: Path) -> None:
    path = write_colour_classifier(tmp_path / "colours.onnx")
    with path.with_suffix(".toml").open("a") as card:
        card.write("conf_threshold = 0.5\n")
    stage = Second(open_model(str(path), "cpu"), None, every=10)
    found = scene(0, [("red", 5, 5, 0), ("grey", 50, 5, 0), ("blue", 90, 5, 0)])
    (result,) = stage([found])
    assert answers(result) == ["red", None, "blue"]
    second = result.detections.second
    assert second.class_id[1] == -1 and second.confidence[1] == 0 and (second.confidence[::2] > 0.5).all()
    path.with_suffix(".toml").write_text(path.with_suffix(".toml").read_text().replace("0.5", "0"))
    (result,) = Second(open_model(str(path), "cpu"), None, every=10)([found])
    assert None not in answers(result)


def test_a_model_that_answers_otherwise_than_once_a_crop_is_an_error(model: Model) -> None:
    """Rows after NMS, say: as many as it finds."""

    class Other:
        def run(self, *blobs: np.ndarray) -> list[np.ndarray]:
            return [np.zeros((len(blobs[0]) + 1, 3), np.float32)]

    stage = Classify(replace(model, session=Other()))
    matched = Match(model.labels, None, 1)([scene(0, [("red", 5, 5, 0)])])
    with pytest.raises(ModelError, match=r"expected an answer for each of 1 crops; got \[2, 3\]"):
        stage(matched)


def test_a_thousand_names_are_not_shown_with_each_answer() -> None:
    names = [f"thing {index}" for index in range(1000)]
    labels = Labels(np.array([3, -1, 7, 8, 9], np.int32), np.zeros(5, np.float32), names)
    assert repr(labels) == "Labels(5: thing 3, -, thing 7, thing 8, …)"


def test_only_objects_of_chosen_classes_are_looked_at(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(model, monkeypatch)
    stage = Second(model, [1], every=10)
    (result,) = stage([scene(0, [("red", 5, 5, 0), ("blue", 50, 5, 1), ("green", 90, 5, 0)])])
    assert answers(result) == [None, "blue", None]
    assert sum(counting.runs) == 1


def test_frames_and_streams_share_a_run(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(model, monkeypatch)
    stage = Second(model, None, every=10)
    objects = [("red", 5, 5, 0), ("blue", 50, 5, 0)]
    results = stage([scene(0, objects, "a"), scene(7, objects[::-1], "b"), scene(1, [], "a")])
    assert [answers(result) for result in results] == [["red", "blue"], ["blue", "red"], []]
    assert [(result.stream, result.frame.seq) for result in results] == [("a", 0), ("b", 7), ("a", 1)]
    assert counting.runs == ([1] * 4 if model.max_batch == 1 else [4])


def test_an_answer_holds_for_some_frames_and_goes_with_its_object(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(model, monkeypatch)
    stage = Second(model, None, every=5)
    asked = []
    for seq in range(12):
        # Two objects move, in exchanged order from frame to frame; the colour is what moves with them.
        objects = [("red", 5 + 2 * seq, 5, 0), ("blue", 100 - 2 * seq, 60, 0)][:: 1 if seq % 2 else -1]
        before = sum(counting.runs)
        (result,) = stage([scene(seq, objects)])
        assert answers(result) == [colour for colour, *_ in objects]
        asked.append(sum(counting.runs) - before)
    assert asked == [2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0]


def test_without_a_memory_each_frame_of_a_batch_has_its_own_answer(model: Model) -> None:
    stage = Second(model, None, every=1)
    colours = ["red", "green", "blue", "red"]
    results = stage([scene(seq, [(colour, 40, 40, 0)]) for seq, colour in enumerate(colours)])
    assert [answers(result) for result in results] == [[colour] for colour in colours]


def test_another_class_or_place_is_another_object(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(model, monkeypatch)
    stage = Second(model, None, every=100)
    stage([scene(0, [("red", 40, 40, 0)])])
    stage([scene(1, [("blue", 40, 40, 1)])])  # the same place, another class
    stage([scene(2, [("green", 80, 40, 0)])])  # the same class, another place
    assert sum(counting.runs) == 3


def test_what_waits_for_the_classifier_and_what_does_not(model: Model) -> None:
    match, classify = Match(model.labels, [0], every=10), Classify(model)
    first, same, other, nothing, unwatched = match(
        [
            scene(0, [("red", 40, 40, 0)]),
            scene(1, [("red", 40, 40, 0)]),  # known, but its answer is not there yet
            scene(2, [("red", 40, 40, 0), ("blue", 90, 40, 0)]),
            scene(3, []),
            scene(4, [("red", 40, 40, 1)]),
        ]
    )
    assert [type(each) for each in (first, same, other)] == [Matched] * 3
    assert [len(list(each.unanswered())) for each in (first, same, other)] == [1, 1, 2]
    assert [type(each) for each in (nothing, unwatched)] == [Result] * 2
    assert [answers(each) for each in classify([first, same, other])] == [["red"], ["red"], ["red", "blue"]]
    (again,) = match([scene(5, [("red", 40, 40, 0), ("blue", 90, 40, 0)])])
    assert answers(again) == ["red", "blue"]


def test_an_object_is_asked_about_by_the_next_frame_where_the_first_one_is_dropped(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    match, classify = Match(model.labels, None, every=10), Classify(model)
    counting = Counting(model, monkeypatch)
    _, second, third = match([scene(number, [("red", 40, 40, 0)]) for number in range(3)])
    assert [answers(each) for each in classify([second, third])] == [["red"], ["red"]]
    assert counting.runs == [1]


def test_an_answer_that_is_no_number_gives_no_label_and_a_warning(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = model.session.run
    nothing = [np.full((len(run(np.zeros((1, 3, 8, 8), np.float32))[0]), 3), np.nan, np.float32)]
    monkeypatch.setattr(model.session, "run", lambda blob: [np.repeat(nothing[0], len(blob), 0)])
    stage = Second(model, None, every=10)
    results = [stage([scene(seq, [("red", 5, 5, 0), ("blue", 50, 5, 0)])])[0] for seq in range(3)]
    assert [answers(result) for result in results] == [[None, None]] * 3
    assert np.isfinite(results[0].detections.second.confidence).all()
    assert caplog.text.count("what is no number") == 1


def test_objects_that_are_gone_are_forgotten(model: Model) -> None:
    stage = Second(model, None, every=3)
    for seq in range(200):
        stage([scene(seq, [("red", (seq * 37) % 170, (seq * 53) % 90, 0)])])
    assert len(stage.match._known["a"]) <= 5


def test_boxes_at_the_edge_and_thinner_than_a_pixel(model: Model) -> None:
    stage = Second(model, None, every=10)
    result = scene(0, [("red", 0, 0, 0), ("blue", 180, 100, 0)])
    boxes = np.array([[0, 0, 0.2, 20], [199.9, 119.9, 200, 120]], np.float32)
    thin = Detections(boxes, result.detections.confidence, result.detections.class_id)
    (answered,) = stage([Result(result.frame, thin)])
    assert answers(answered) == ["red", "blue"]


def test_what_is_asked_for_must_make_sense(cheap_model: str, tmp_path: Path) -> None:
    from pipeline import Pipeline

    classifier = str(write_colour_classifier(tmp_path / "colours.onnx"))
    options = {"model": cheap_model, "classify": classifier}
    with pytest.raises(ConfigError, match="classify_on: model 'cheap' has no class 'unicorn'"):
        Pipeline("synthetic:64x48?frames=3", **options, classify_on="unicorn").__enter__()
    with pytest.raises(ConfigError, match="classify_on: nothing is classified"):
        Pipeline("synthetic:64x48?frames=3", model=cheap_model, classify_on="thing0")
    with pytest.raises(ModelError, match=r"is for the task detect .*; asked for was classify"):
        Pipeline("synthetic:64x48?frames=3", model=cheap_model, classify=cheap_model).__enter__()
    with Pipeline("synthetic:64x48?frames=9", **options, classify_on="thing0") as line:
        results = list(line)
        told = [
            {sample.labels["model"] for sample in family.samples}
            for family in Collector(line).collect()
            if family.name == "framerail_provider"
        ]
        assert told == [{"cheap", "colours"}]
    assert [result.frame.seq for result in results] == list(range(9))
    assert all(result.detections.second.labels[0] in COLOURS for result in results)
    assert line.accounts.stages["match"].count == 9
    assert 1 <= line.accounts.stages["classify"].count <= 9
    assert line.accounts.totals().emitted == 9
    second = summarize(line)["second"]
    assert second["provider"]["active"] == "CPUExecutionProvider"
    assert second["provider"]["nodes"] == line.second.session.nodes != {}
    assert (second["model"]["name"], second["model"]["sha256"]) == ("colours", line.second.sha256)
    shown = io.StringIO()
    print_summary(summarize(line), Console(file=shown, width=200))
    assert (
        "second model colours (classifier-unit); provider asked: auto, running: CPUExec" in shown.getvalue()
    )


def test_frames_that_are_left_out_make_no_answer_older(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(model, monkeypatch)
    stage = Second(model, None, every=5)
    for seq in range(0, 1000, 100):
        stage([scene(seq, [("red", 40, 40, 0)])])
    assert sum(counting.runs) == 2


def test_a_live_stream_has_fewer_frames_under_way(model: Model) -> None:
    """What waits for the second model grows old; a file's frames may wait."""
    flow = Flow(Accounts([], []))
    merge = flow.merge("capture")
    depths = Depths(flow, 20, model.spec, live_window=3)
    for name, live, under_way in (("camera", True, 3), ("file", False, 9)):
        first = flow.channel(name, "capture", 20, merge=merge, window=9)
        depths.opened(first, live, 100)
        first.put_all(range(12))
        assert len(merge.take(20)) == under_way


def test_a_frame_that_only_waits_for_an_earlier_one_leaves_with_it() -> None:
    """One object in a stream's whole life must not bind it to the classifier's pace for good."""
    out: Channel[tuple[str, int]] = Channel("out", 20)
    lanes = {"a": Channel("lane", 20)}
    bypass = Bypass(lambda item: item[0], lambda item: item[1] in (1, 4), lanes, out)
    bypass.entrance.put_all([("a", number) for number in range(6)])
    assert out.take(20) == [("a", 0)]
    bypass.exit.put_all(lanes["a"].take(1))
    assert [number for _, number in out.take(20)] == [1, 2, 3]
    bypass.exit.put_all(lanes["a"].take(1))
    assert [number for _, number in out.take(20)] == [4, 5]
    bypass.entrance.put_all([("a", 6)])
    assert [number for _, number in out.take(20)] == [6]


@pytest.mark.parametrize("names", [("asking", "other"), ("other", "asking")])
def test_a_stream_that_waits_for_the_classifier_holds_up_no_other(
    names: tuple[str, str], cheap_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier stands still over one stream's object until the other stream has wholly come through."""
    from pipeline import Pipeline

    count = 200
    streams = [{"source": f"synthetic:64x48?frames={count}", "name": name} for name in names]
    classifier = str(write_colour_classifier(tmp_path / "colours.onnx"))
    order: dict[str, list[int]] = {name: [] for name in names}
    through = threading.Event()
    with Pipeline(make_config({"streams": streams, "model": cheap_model, "classify": classifier})) as line:
        match, run = Match.__call__, line.second.session.run

        def nothing_in_the_other(self: Match, results: list[Result]) -> list[Result | Matched]:
            seen = [
                result if result.stream == "asking" else replace(result, detections=Detections.empty())
                for result in results
            ]
            return match(self, seen)

        def stand_still(blob: np.ndarray) -> object:
            assert through.wait(10), f"only so many came past: {len(order['other'])}"
            return run(blob)

        monkeypatch.setattr(Match, "__call__", nothing_in_the_other)
        monkeypatch.setattr(line.second.session, "run", stand_still)
        for result in line:
            order[result.stream].append(result.frame.seq)
            if len(order["other"]) == count:
                through.set()
    assert order == {name: list(range(count)) for name in names}
