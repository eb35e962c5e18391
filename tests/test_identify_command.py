"""``framerail models identify``, and the ways of feeding that it tells, through the real command."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from benchmarks.cheap_model import write_cheap_model
from pipeline import Detector, Pipeline
from pipeline.errors import ConfigError, ModelError
from pipeline.runtime.model import open_model
from pipeline.runtime.trial import photograph
from tests.command import framerail
from tests.constant_models import constant_model
from tests.test_stages_classify import write_colour_classifier


def identify(model: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return framerail("models", "identify", str(model), *arguments)


def test_what_it_is_and_why_for_people_and_machines() -> None:
    data = json.loads(identify("nanodet-g", "--json").stdout)
    assert (data["family"], data["task"], data["classes"]) == ("nanodet", "detect", 80)
    assert data["input"]["color"] == "BGR" and data["reasons"]["color"] == "model card"
    assert [output["holds"] for output in data["outputs"]] == ["class scores"] * 3 + ["distances"] * 3
    assert "person and the cat" in data["evidence"]
    assert data["warnings"] == []
    shown = identify("nanodet-g").stdout
    for text in ("nanodet (detect)", "class scores", "runner-up", "BGR"):
        assert text in shown


def test_what_cannot_be_told_ends_with_the_card_to_complete(tmp_path: Path) -> None:
    model = onnx.load(write_cheap_model(tmp_path / "odd.onnx"))
    del model.metadata_props[:]
    (output,) = model.graph.output
    output.type.tensor_type.shape.dim[1].dim_value = 84
    model.graph.node.append(onnx.helper.make_node("Transpose", ["output0"], ["odd"], perm=[2, 1, 0]))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("odd", 1, [21, 84, 1]))
    onnx.save(model, tmp_path / "odd.onnx")
    done = identify(tmp_path / "odd.onnx")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    (error,) = done.stderr.splitlines()
    assert "fit no known layout" in error and "centerface" not in error, "the card lists the families"
    assert "centerface" in done.stdout
    card = tomllib.loads(done.stdout)
    asked = json.loads(identify(tmp_path / "odd.onnx", "--json").stdout)
    assert tomllib.loads(asked["card"]) == card and asked["error"] in error
    with (tmp_path / "odd.toml").open("w") as beside:  # as a shell does it
        again = subprocess.run(
            [sys.executable, "-m", "pipeline", "models", "identify", "odd.onnx"],
            cwd=tmp_path, stdout=beside, stderr=subprocess.PIPE, text=True, timeout=50,
        )  # fmt: skip
    assert again.returncode == 3 and "fit no known layout" in again.stderr
    assert (tmp_path / "odd.toml").read_text() == done.stdout
    assert (card["name"], card["file"], card["family"]) == ("odd", "odd.onnx", "")


@pytest.mark.parametrize(
    ("boxes", "scores", "says"),
    [
        ((), (), "sees nothing in a picture with a person and a cat"),
        (((16.0, 16.0, 8.0, 8.0),), (0.9,), "the same answer to two different pictures"),
        (((16.0, 16.0, 8.0, 8.0),), (float("nan"),), "output0 is not finite"),
    ],
)
def test_a_model_that_looks_broken_is_warned_of(
    tmp_path: Path, boxes: tuple[tuple[float, float, float, float], ...], scores: tuple[float, ...], says: str
) -> None:
    model = write_cheap_model(tmp_path / "m.onnx", boxes_cxcywh=boxes, scores=scores)
    (warning,) = [each for each in json.loads(identify(model, "--json").stdout)["warnings"] if says in each]
    # A sound model of other things sees nothing either.
    assert warning.startswith("it looks broken: ") == ("sees nothing" not in says)
    assert f"WARNING: {warning}" in identify(model).stdout


def test_broken_answers_are_the_first_thing_said_of_a_model_that_is_refused(tmp_path: Path) -> None:
    answer = np.full((1, 84, 8400), np.nan, np.float32)
    model = constant_model(tmp_path / "nan.onnx", {"output0": answer}, shape=(1, 3, 640, 640))
    done = identify(model)
    assert done.returncode == 3
    assert "it looks broken: output output0 is not finite" in done.stderr
    assert "no known layout" not in done.stderr and "Families known" not in done.stderr
    (stated,) = [line for line in done.stdout.splitlines() if line.startswith("family")]
    assert stated.split("#")[0].strip() == 'family = "yolov8"'


def test_a_model_that_should_see_the_photograph_and_does_not_is_warned_of_when_it_is_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = onnx.load(write_cheap_model(tmp_path / "m.onnx", scores=(0.05,)))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "m.toml").write_text('name = "m"\nfile = "m.onnx"\nfamily = "yolov8"\n')
    open_model(str(tmp_path / "m.onnx"))
    assert "sees neither the person nor the cat" in caplog.text
    caplog.clear()
    open_model(str(write_cheap_model(tmp_path / "things.onnx", scores=(0.05,))))
    assert "sees neither" not in caplog.text, "a model of other things need not"


def boxes_beside(count: int, score: float) -> np.ndarray:
    """A detector's [1, 84, 8400] with ``count`` boxes along the upper edge, in the padding."""
    answer, at = np.zeros((1, 84, 8400), np.float32), 0
    for stride in (8, 16, 32):
        middles = (np.arange(640 // stride) + 0.5) * stride
        columns, rows = (each.ravel() for each in np.meshgrid(middles, middles))
        sizes = np.full(len(rows), stride)
        answer[0, :4, at : at + len(rows)] = [columns, rows, sizes, sizes]
        at += len(rows)
    answer[0, 4, :count] = score
    answer[0, 2:4, :count] = np.linspace(8, 40, count)
    return answer


def test_many_boxes_that_lie_nowhere_are_warned_of(tmp_path: Path) -> None:
    """As of a model that is read or fed in a wrong way; of which, the picture cannot say."""
    answer = boxes_beside(150, 0.3)
    model = constant_model(tmp_path / "m.onnx", {"output0": answer}, shape=(1, 3, 640, 640))
    warnings = json.loads(identify(model, "--json").stdout)["warnings"]
    assert any(each.startswith("taken to be yolov8, but the trial run gave 150") for each in warnings)
    answer[0, 4, 20:150] = 0
    model = constant_model(tmp_path / "few.onnx", {"output0": answer}, shape=(1, 3, 640, 640))
    warnings = json.loads(identify(model, "--json").stdout)["warnings"]
    assert not any(each.startswith("taken to be") for each in warnings)


@pytest.mark.parametrize(
    ("count", "labels", "says"),
    [
        (150, "", "the trial run gave 150 candidates"),
        (150, 'labels = "coco80"', "the trial run gave 150 candidates"),
        (150, f"labels = {[f'bolt {i}' for i in range(80)]}", None),
        (20, "", None),
        (3000, f"labels = {[f'bolt {i}' for i in range(80)]}", "sure of 3000 things at once"),
    ],
)
def test_a_card_that_feeds_or_reads_its_model_wrongly_is_warned_of_whenever_it_is_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int, labels: str, says: str | None
) -> None:
    answer = boxes_beside(count, 0.9)
    constant_model(tmp_path / "m.onnx", {"output0": answer}, shape=(1, 3, 640, 640))
    (tmp_path / "m.toml").write_text(f'name = "m"\nfile = "m.onnx"\nfamily = "yolov8"\n{labels}\n')
    open_model(str(tmp_path / "m.onnx"))
    if says is None:
        assert "stated is" not in caplog.text
    else:
        assert "stated is the family yolov8, but" in caplog.text
        assert says in caplog.text and "are color, mean and std" in caplog.text


def test_classes_that_nothing_names_get_numbers_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = boxes_beside(20, 0.9)[:, :7]
    model = str(constant_model(tmp_path / "own.onnx", {"output0": own}, shape=(1, 3, 640, 640)))
    assert open_model(model).labels == ("class 0", "class 1", "class 2")
    assert "nothing names its 3 classes: labels are numbers" in caplog.text
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, :2] = [[30, 304, 233, 579, 0.9, 1], [357, 131, 503, 509, 0.8, 2]]
    model = str(constant_model(tmp_path / "rows.onnx", {"output0": rows}, shape=(1, 3, 640, 640)))
    assert open_model(model).labels[1] == "class 1"
    assert "nothing names its classes, whose number is not known" in caplog.text
    caplog.clear()
    (tmp_path / "own.toml").write_text(
        'name = "own"\nfile = "own.onnx"\nfamily = "yolov8"\nlabels = ["bolt", "nut", "pin"]\n'
    )
    open_model(str(tmp_path / "own.onnx"))
    assert "nothing names" not in caplog.text


def test_labels_that_are_too_few_are_named_as_what_is_wrong(tmp_path: Path) -> None:
    model = write_cheap_model(tmp_path / "m.onnx")
    card = 'name = "m"\nfile = "m.onnx"\nfamily = "yolov8"\nlabels = ["bolt", "nut"]\n'
    (tmp_path / "m.toml").write_text(card)
    with pytest.raises(ModelError, match="its card names 2 labels, but its outputs hold 80 classes"):
        open_model(str(model))


def test_reasons_are_those_that_count(tmp_path: Path) -> None:
    rows = np.zeros((300, 6), np.float32)  # no batch axis
    rows[:2] = [[30, 304, 233, 579, 0.9, 15], [357, 131, 503, 509, 0.8, 0]]
    model = constant_model(tmp_path / "rows.onnx", {"output0": rows}, shape=("n", 3, 640, 640))
    data = json.loads(identify(model, "--json").stdout)
    assert data["input"]["batch"] == 1 and data["reasons"]["batch"] == "its outputs have no batch axis"
    assert "the trial run found a person and a cat under COCO's number" in data["reasons"]["labels"]
    assert "because the model has 80 classes" not in data["reasons"]["labels"]
    names = {"names": "['goldfish, Carassius auratus', 'tench, Tinca tinca']"}
    table = boxes_beside(20, 0.9)[:, :6]
    model = constant_model(tmp_path / "fish.onnx", {"output0": table}, shape=(1, 3, 640, 640), metadata=names)
    assert "goldfish, tench" in identify(model).stdout


@pytest.mark.assets
def test_faces_are_not_judged_by_the_person_and_the_cat(assets: Path) -> None:
    data = json.loads(identify(assets / "models" / "ultraface_RFB-320.onnx", "--json").stdout)
    assert "lies in the picture" in data["evidence"] and "the cat" not in data["evidence"]


def test_names_that_contradict_the_outputs_are_named_with_the_family_that_fits(tmp_path: Path) -> None:
    names = {"names": repr({index: f"thing {index}" for index in range(80)})}
    own = boxes_beside(20, 0.9)[:, :7]
    model = constant_model(tmp_path / "m.onnx", {"output0": own}, shape=(1, 3, 640, 640), metadata=names)
    done = identify(model)
    assert done.returncode == 3
    assert "its metadata name 80 classes, but its outputs hold 3 (yolov8)" in done.stderr
    card = tomllib.loads(done.stdout)
    assert card["family"] == "yolov8"
    labels = done.stdout.replace("labels = []", 'labels = ["bolt", "nut", "pin"]')
    (tmp_path / "m.toml").write_text(labels)
    assert open_model(str(model)).labels == ("bolt", "nut", "pin")


def test_labels_in_a_file_are_named_with_its_suffix_or_without(tmp_path: Path) -> None:
    model = write_colour_classifier(tmp_path / "c.onnx")
    (tmp_path / "my.txt").write_text("rot\ngrün\nblau\n", encoding="utf-8")
    card = 'name = "c"\nfile = "c.onnx"\nfamily = "classifier-unit"\nlabels = "{}"\n'
    for stem in ("my", "my.txt"):
        (tmp_path / "c.toml").write_text(card.format(stem))
        assert open_model(str(model)).labels == ("rot", "grün", "blau")
    (tmp_path / "c.toml").write_text(card.format("your.txt"))
    with pytest.raises(ModelError, match=r"no file of labels your.txt in \S+, where the model lies, nor in"):
        open_model(str(model))


def test_a_model_of_another_task_is_refused_with_those_that_are_of_it(cheap_model: str) -> None:
    with pytest.raises(ModelError, match=r"asked for was classify: .*one of your own or mobilenetv2"):
        open_model(cheap_model, task="classify")
    with pytest.raises(ModelError, match=r"^classify: model 'cheap' is for the task detect"):
        Pipeline("synthetic:64x48?frames=1", model=cheap_model, classify=cheap_model).__enter__()


def test_what_the_runner_up_was_told_apart_by_is_said(tmp_path: Path) -> None:
    data = json.loads(identify(write_colour_classifier(tmp_path / "c.onnx"), "--json").stdout)
    assert data["runner_up"] is None and data["stated"] is True
    (tmp_path / "c.toml").unlink()
    data = json.loads(identify(tmp_path / "c.onnx", "--json").stdout)
    assert data["runner_up"]["family"].startswith("classifier")
    assert data["runner_up"]["apart"].startswith("nothing clearly (how the answer agrees")
    (doubt,) = [warning for warning in data["warnings"] if "does not tell how it is fed" in warning]
    assert 'a card says it: family = "classifier' in doubt
    assert f"WARNING: {doubt}" in identify(tmp_path / "c.onnx").stdout


def with_card_inside(path: Path, **values: object) -> str:
    model = onnx.load(path)
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=f"framerail.{key}", value=text)
    onnx.save(model, path)
    return str(path)


def test_a_card_may_stand_in_the_file_itself(tmp_path: Path) -> None:
    path = with_card_inside(
        write_cheap_model(tmp_path / "m.onnx"),
        family="yolov8",
        input={"resize": "stretch", "pad": 3},
        params={"multi_label": True},
        card={"conf_threshold": 0.11},
    )
    model = open_model(path)
    assert (model.spec.resize, model.spec.pad, model.conf_threshold) == ("stretch", 3, 0.11)
    assert model.params["multi_label"] is True
    assert "metadata (framerail.*)" in model.reasons["resize"]
    beside = tmp_path / "m.toml"
    beside.write_text('name = "m"\nfile = "m.onnx"\nfamily = "yolov8"\n')
    assert open_model(path).spec.resize == "letterbox"  # a card beside the file wins, as a whole


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"family": "yolov9"}, "unknown family 'yolov9'"),
        ({"family": "yolov8", "input": "["}, r"framerail\.\* expected to be JSON"),
        ({"family": "yolov8", "input": {"colour": "BGR"}}, "did you mean 'color'"),
        ({"family": "yolov8", "card": [1]}, "expected to be JSON objects"),
    ],
)
def test_a_card_in_the_file_that_cannot_be_right(
    tmp_path: Path, values: dict[str, object], says: str
) -> None:
    path = with_card_inside(write_cheap_model(tmp_path / "m.onnx"), **values)
    with pytest.raises(ModelError, match=says):
        open_model(path)


def write_free_model(path: Path, *, truly: bool = True) -> Path:
    """A model that declares any size, with a box in every cell; ``truly``: it also takes any."""
    cells = [
        onnx.helper.make_node("AveragePool", ["images"], [f"p{s}"], kernel_shape=[s, s], strides=[s, s])
        for s in (8, 16, 32)
    ]
    nodes = [*cells]
    columns = []
    for s in (8, 16, 32):
        # Where each cell is: running sums over a plane of ones.
        nodes += [
            onnx.helper.make_node("ReduceMax", [f"p{s}"], [f"m{s}"], axes=[1], keepdims=1),
            onnx.helper.make_node("Mul", [f"m{s}", "zero"], [f"z{s}"]),
            onnx.helper.make_node("Add", [f"z{s}", "one"], [f"o{s}"]),
            onnx.helper.make_node("CumSum", [f"o{s}", "axis3"], [f"x{s}"]),
            onnx.helper.make_node("CumSum", [f"o{s}", "axis2"], [f"y{s}"]),
        ]
        for axis in "xy":
            nodes += [
                onnx.helper.make_node("Sub", [f"{axis}{s}", "half"], [f"{axis}h{s}"]),
                onnx.helper.make_node("Mul", [f"{axis}h{s}", f"s{s}"], [f"{axis}p{s}"]),
            ]
        nodes += [
            onnx.helper.make_node("Mul", [f"o{s}", f"s{s}"], [f"w{s}"]),
            onnx.helper.make_node("Mul", [f"m{s}", "small"], [f"c{s}"]),
            onnx.helper.make_node(
                "Concat", [f"xp{s}", f"yp{s}", f"w{s}", f"w{s}", *[f"c{s}"] * 80], [f"t{s}"], axis=1
            ),
            onnx.helper.make_node("Reshape", [f"t{s}", "flat"], [f"r{s}"]),
        ]
        columns.append(f"r{s}")
    last = "all" if not truly else "output0"
    nodes.append(onnx.helper.make_node("Concat", columns, [last], axis=2))
    constants = {
        "zero": np.float32(0), "one": np.float32(1), "half": np.float32(0.5), "small": np.float32(0.001),
        "s8": np.float32(8), "s16": np.float32(16), "s32": np.float32(32),
        "axis3": np.int64(3), "axis2": np.int64(2), "flat": np.array([0, 84, -1], np.int64),
    }  # fmt: skip
    if not truly:
        constants["fixed"] = np.array([1, 84, 8400], np.int64)
        nodes.append(onnx.helper.make_node("Reshape", ["all", "fixed"], ["output0"]))
    graph = onnx.helper.make_graph(
        nodes,
        "free",
        [onnx.helper.make_tensor_value_info("images", 1, [1, 3, "h", "w"])],
        [onnx.helper.make_tensor_value_info("output0", 1, [1, 84, "n"])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def test_a_free_size_is_used_where_it_is_real(tmp_path: Path) -> None:
    model = open_model(str(write_free_model(tmp_path / "free.onnx")))
    assert (model.spec.stride, model.spec.height, model.spec.width) == (32, 640, 640)
    assert "answers 640x320 in the same way" in model.reasons["stride"]
    fixed = open_model(str(write_free_model(tmp_path / "fixed.onnx", truly=False)))
    assert fixed.spec.stride is None
    assert "a fixed size: declared free, but" in fixed.reasons["stride"]


def test_an_oblong_picture_gets_an_oblong_input_and_its_boxes_back(tmp_path: Path) -> None:
    model = str(write_free_model(tmp_path / "free.onnx"))
    detector = Detector(model)
    found = detector.detect(
        np.full((720, 1280, 3), 255, np.uint8), conf=0.0005, iou=1.0, max_detections=10_000
    )
    assert len(found) > 4000
    centres = (found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2
    assert centres[:, 0].min() > 0 and centres[:, 0].max() < 1280 and centres[:, 1].max() < 720
    with Pipeline(
        ["synthetic:640x360?frames=5", "synthetic:360x640?frames=5", "synthetic:64x64?frames=5"],
        model=model, batch=1, conf_threshold=0.9,
    ) as line:  # fmt: skip
        line.run()
    assert all(account.counts().emitted == 5 for account in line.accounts.streams.values())


def test_the_input_size_may_be_chosen_where_the_file_leaves_it_open(tmp_path: Path, cheap_model: str) -> None:
    free = str(write_free_model(tmp_path / "free.onnx"))
    model = open_model(free, input_size=(320, 416))
    assert (model.spec.height, model.spec.width) == (320, 416)
    with pytest.raises(ModelError, match=r"asked for input 96x64 .*, but the file takes 32x32"):
        open_model(cheap_model, input_size=(64, 96))
    fixed = str(write_free_model(tmp_path / "fixed.onnx", truly=False))
    with pytest.raises(ModelError, match=r"not work with an input of 416x320 .*, but with 640x640: leave"):
        open_model(fixed, input_size=(320, 416))
    assert (Detector(free, input_size=(320, 416)).model.spec.width) == 416


def test_whole_frames_are_classified(tmp_path: Path) -> None:
    model = write_colour_classifier(tmp_path / "colours.onnx")
    cv2.imwrite(str(tmp_path / "green.png"), np.full((40, 90, 3), (0, 255, 0), np.uint8))
    run = [
        "run",
        "green.png",
        "--model",
        str(model),
        "--task",
        "classify",
        "--jsonl",
        "-",
        "--video",
        "out.mp4",
    ]
    done = framerail(*run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(text) for text in done.stdout.splitlines()]
    best = line["classes"][0]
    assert best["label"] == "green" and best["confidence"] > 0.9 and line["detections"] == []


def test_one_picture_is_classified_or_searched_by_what_the_model_is_for(
    tmp_path: Path, cheap_model: str
) -> None:
    classifier, detector = Detector(str(write_colour_classifier(tmp_path / "c.onnx"))), Detector(cheap_model)
    picture = np.full((40, 90, 3), (0, 255, 0), np.uint8)
    found = classifier.classify(picture)
    assert found.labels[0] == "green" and len(found) == 3 and found.confidence[0] > 0.9
    assert len(classifier.classify(picture, top=1)) == 1
    assert classifier.classify(picture, classes="red,blue").labels.count("green") == 0
    with pytest.raises(ConfigError, match="it classifies; call classify"):
        classifier.detect(picture)
    with pytest.raises(ConfigError, match="it detects; call detect"):
        detector.classify(picture)
    with pytest.raises(ConfigError, match="looks at objects, and 'colours' finds none"):
        Pipeline(
            "synthetic:64x48?frames=1", model=str(tmp_path / "c.onnx"), classify=str(tmp_path / "c.onnx")
        ).__enter__()


@pytest.mark.assets
def test_a_real_classifier_knows_a_cat(assets: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "cat.png"), photograph()[342:655, 60:480])
    model = str(assets / "models" / "efficientnet_lite0_224.onnx")
    with Pipeline(str(tmp_path / "cat.png"), model=model, task="classify") as line:
        (result,) = list(line)
    assert result.classification is not None
    assert "cat" in result.classification.labels[0] and result.classification.confidence[0] > 0.4
