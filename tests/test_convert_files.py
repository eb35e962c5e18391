"""What is wrong with a cfg or weights is said in one line; labels, metadata, the real Yolo-Fastest."""

from __future__ import annotations

import ast
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline.commands.convert import convert
from pipeline.convert import Converted, convert_darknet
from pipeline.convert.cfg import read_cfg
from pipeline.decoders import DECODERS
from pipeline.detector import Detector
from pipeline.errors import ConfigError, DependencyError, ModelError, SinkOpenError
from pipeline.vision.blobber import Blobber
from pipeline.vision.letterbox import InputSpec
from tests.authors import darknet_reference as reference
from tests.authors.darknet_nets import NETS

SMALL = (
    "[net]\nwidth=8\nheight=8\n\n[convolutional]\nfilters=2\nsize=3\npad=1\nbatch_normalize=1\n"
    "activation=leaky\n[avgpool]\n[softmax]\n"
)


def write(folder: Path, text: str, values: np.ndarray | None = None) -> tuple[Path, Path]:
    if values is None:
        values = reference.random_weights(text, 1)
    (folder / "n.cfg").write_text(text)
    (folder / "n.weights").write_bytes(reference.weights_file(values))
    return folder / "n.cfg", folder / "n.weights"


def head(classes: int) -> str:
    return (
        f"[net]\nwidth=32\nheight=32\n[convolutional]\nfilters={5 + classes}\nstride=8\nactivation=linear\n"
        f"[yolo]\nmask=0\nanchors=10,10\nnum=1\nclasses={classes}\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("size=3", "size=three", r"n.cfg line 7: layer 0 \[convolutional\]: size: expected a whole number"),
        ("size=3", "size=3.5", "line 7: .* size: expected a whole number; got '3.5'"),
        ("size=3", "size=0", r"line 7: .* size: expected a whole number in 1\.\."),
        ("size=3", "nonsense", r"n.cfg line 7: expected \[layer\] or a key with its value; got 'nonsense'"),
        ("[avgpool]", "[avgpool", r"line 11: expected \[layer\]"),
        (
            "[avgpool]",
            "[gru]",
            r"line 11: layer 1 \[gru\]: layer type \[gru\] \(known: activ.*\) is not supported",
        ),
        ("activation=leaky", "activation=stair", "line 10: .* activation 'stair' .*leaky.* is not supported"),
        ("batch_normalize=1", "xnor=1", "line 9: .* xnor=1 is not supported"),
        ("[net]", "[convolutional]", r"is not a Darknet cfg: expected \[net\] first; got \[convolutional\]"),
        ("[net]\n", "", "line 1: expected .net. before any key; got 'width'"),
        ("width=8", "width=0", "expected a network for pictures.* got width=0"),
        ("height=8", "height=8\nchannels=1", "channels=1"),
        ("[softmax]", "[cost]", r"neither a detector nor a classifier: .* got \[avgpool\]"),
        (
            "[softmax]",
            "[softmax]\ntree=9k.tree",
            r"line 13: .* expected its tree of classes; it is not at .*9k.tree",
        ),
        (
            "[softmax]",
            "[route]\nlayers=-3",
            r"line 13: layer 2 \[route\]: layers: expected layers before .*-3",
        ),
        ("[softmax]", "[route]\nlayers=0,1", "expected layers of one height and width; got 8x8, 1x1"),
        ("[softmax]", "[route]\nlayers=a", "layers: expected whole numbers with commas; got 'a'"),
        ("[softmax]", "[maxpool]\nsize=2\npadding=9", "padding=9 with size=2 is not supported"),
        ("[avgpool]", "[yolo]\nclasses=2\nnum=1\nanchors=1,1", r"expected 7 channels before it \(1 anchors"),
        ("width=8", "width=9000", "line 1: .* sides of at most 8192 pixels; got 9000x8"),
        ("[avgpool]", "[upsample]\nstride=9999\n[avgpool]", r"layer 1 .upsample.: it answers .* too many"),
        ("filters=2", "filters=16777216\nsize=9999", "expected 16,777,216 values for its biases"),
        ("filters=2", "filters=2\ngroups=2", "groups=2 do not divide its 3 channels"),
    ],
)
def test_errors_of_a_cfg_name_the_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    files = write(tmp_path, SMALL)
    files[0].write_text(SMALL.replace(old, new, 1))
    with pytest.raises(ModelError, match=message) as caught:
        convert_darknet(*files)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("anchors", ["1e308,10", "10,-1e39", "inf,10", "10,nan"])
def test_an_anchor_that_float32_cannot_hold_is_refused(tmp_path: Path, anchors: str) -> None:
    files = write(tmp_path, head(2))
    files[0].write_text(head(2).replace("anchors=10,10", f"anchors={anchors}"))
    with pytest.raises(ModelError, match=r"line 10: .* anchors: expected numbers up to 1e\+09; got "):
        convert_darknet(*files)


def test_what_counts_in_a_cfg(tmp_path: Path) -> None:
    """Blanks, comments and a byte-order mark do not; of a key that stands twice the first one does."""
    path = tmp_path / "n.cfg"
    text = "\ufeff# c\n; c\n [ net ] \r\n w idth = 8 # c\nwidth=9\n\n[conv]\nanchors = 1, 2.5 ,3,\n"
    path.write_text(text, encoding="utf-8")
    net, layers = read_cfg(path)
    assert net.integer("width", 0) == 8
    assert [(layer.kind, layer.index, layer.line) for layer in layers] == [("convolutional", 0, 7)]
    assert layers[0].numbers("anchors") == [1, 2.5, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-4], r"end in layer 0 .convolutional. \(line 5 of n.cfg\): expected 54"),
        (lambda data: data[:-4], "for its weights, got 53: the file is truncated"),
        (lambda data: data[:24], "expected 2 values for its biases, got 1"),
        (lambda data: data[:20], "expected 2 values for its biases, got 0"),
        (lambda data: data[:-3], "1 bytes are over: it is truncated"),
        (lambda data: data[:18], "expected a header of 20 bytes; the file has 18"),
        (lambda data: data[:0], "expected a header of 16 bytes; the file has 0"),
        (lambda data: data + bytes(8), "hold 64 values; its cfg's 3 layers take 62, so 2 are over"),
        (lambda data: data[:44] + np.float32(-1).tobytes() + data[48:], "variances reach -1; expected"),
        (lambda data: data[:60] + np.float32("nan").tobytes() + data[64:], "its weights are not all finite"),
    ],
)  # fmt: skip
def test_truncated_and_surplus_weights_are_named(change: Any, message: str, tmp_path: Path) -> None:
    cfg, weights = write(tmp_path, SMALL)
    weights.write_bytes(change(weights.read_bytes()))
    with pytest.raises(ModelError, match=message):
        convert_darknet(cfg, weights)


@given(data=st.data())
@settings(max_examples=150)
def test_whatever_is_in_the_files_it_is_a_model_or_one_error(data: st.DataObject) -> None:
    """Lines of a sound cfg are dropped, exchanged or changed, and its weights cut or lengthened."""
    text = NETS[data.draw(st.sampled_from(sorted(NETS)))]
    lines = text.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(lines) - 1))
        key = lines[place].partition("=")[0]
        value = data.draw(
            st.sampled_from(["0", "-1", "1", "2", "3", "7", "1e9", "nan", "x", "", "-1,-2", "1,,2"])
        )
        lines[place] = data.draw(st.sampled_from(["", f"{key}={value}", lines[-1], lines[len(lines) // 2]]))
    values = reference.random_weights(text, 1)
    values = np.resize(values, len(values) + data.draw(st.sampled_from([0, 0, -5, 40])))
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = convert_darknet(*write(Path(folder), "\n".join(lines), values))
        except ModelError:
            pass
        else:
            onnx.checker.check_model(onnx.load_from_string(done.model), full_check=True)


def test_files_that_are_not_there_or_not_what_they_should_be(tmp_path: Path) -> None:
    cfg, weights = write(tmp_path, SMALL)
    with pytest.raises(ModelError, match=r"cannot read cfg .*none.cfg: No such file"):
        convert_darknet(tmp_path / "none.cfg", weights)
    with pytest.raises(ModelError, match=r"cannot read weights .*none: No such file"):
        convert_darknet(cfg, tmp_path / "none")
    with pytest.raises(ModelError, match=r"n.weights is not a Darknet cfg, which is text"):
        convert_darknet(weights, cfg)


def test_labels_and_metadata(tmp_path: Path) -> None:
    files = write(tmp_path, head(2))
    named = convert_darknet(*files, labels=["it's", 'a "b"'], resize="stretch")
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(named.model).metadata_props}
    assert metadata == named.metadata
    assert ast.literal_eval(metadata["names"]) == {0: "it's", 1: 'a "b"'}
    assert metadata["task"] == "detect" and ast.literal_eval(metadata["imgsz"]) == [32, 32]
    assert metadata["framerail.family"] == "yolov8"
    assert json.loads(metadata["framerail.input"]) == {
        "color": "RGB", "mean": [0, 0, 0], "std": [255, 255, 255],
        "resize": "stretch", "align": "center", "pad": 127,
    }  # fmt: skip
    assert json.loads(metadata["framerail.params"]) == {"multi_label": True}
    assert json.loads(metadata["framerail.card"]) == {"conf_threshold": 0.5, "iou_threshold": 0.45}
    with pytest.raises(ConfigError, match=r"labels: expected 2, one for each class of n.cfg; got 1"):
        convert_darknet(*files, labels=["a"])


def test_only_a_detector_of_as_many_classes_has_cocos_labels(tmp_path: Path) -> None:
    coco = ["a", "b"]
    assert convert_darknet(*write(tmp_path, head(2)), coco=coco).labels == ("a", "b")
    assert convert_darknet(*write(tmp_path, head(3)), coco=coco).labels == ()
    classifier = convert_darknet(*write(tmp_path, SMALL), coco=coco)
    assert (classifier.task, classifier.labels) == ("classify", ())
    # Said, or 1000 classes would be taken for ImageNet's in an order that is not Darknet's.
    assert ast.literal_eval(classifier.metadata["names"]) == {0: "class 0", 1: "class 1"}


def test_the_package_onnx_is_asked_for_only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pipeline.convert.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DependencyError, match=r"needs the package onnx.*pip install 'framerail\[convert\]'"):
        convert_darknet(*write(tmp_path, SMALL))


def said(tmp_path: Path, **options: Any) -> str:
    console = Console(record=True, width=300, file=io.StringIO())
    cfg, weights = tmp_path / "n.cfg", tmp_path / "n.weights"
    convert(str(cfg), str(weights), options.pop("output", str(tmp_path / "n.onnx")), console, **options)
    return console.export_text()


def test_the_command_writes_the_file_in_one_step(tmp_path: Path) -> None:
    write(tmp_path, head(80))
    assert "detector, input 32x32 (letterbox), 80 classes, named by COCO's labels; 2 layers" in said(tmp_path)
    first = (tmp_path / "n.onnx").read_bytes()
    (tmp_path / "my.names").write_text("\n".join(f"thing {index}" for index in range(80)))
    assert "(stretch), 80 classes, named by my.names" in said(
        tmp_path, labels=str(tmp_path / "my.names"), resize="stretch"
    )
    assert (tmp_path / "n.onnx").read_bytes() != first
    write(tmp_path, SMALL)
    assert "classifier, input 8x8 (letterbox), 2 classes, named by numbers" in said(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".cfg", ".names", ".onnx", ".weights"]


def test_the_input_may_have_another_size_than_the_cfgs(tmp_path: Path) -> None:
    write(tmp_path, head(80))
    assert "input 64x64 (letterbox)" in said(tmp_path, size="64")
    assert "input 96x48 (letterbox)" in said(tmp_path, size="96x48")
    width, height = 12, 6  # cells of 8 pixels
    assert Detector(str(tmp_path / "n.onnx")).model.session.outputs[0].shape[1:] == (84, width * height)
    converted = (tmp_path / "n.onnx").read_bytes()
    write(tmp_path, head(80).replace("width=32", "width=96").replace("height=32", "height=48"))
    said(tmp_path)
    assert (tmp_path / "n.onnx").read_bytes() == converted, "as if the cfg had said so"
    with pytest.raises(ConfigError, match="--size: expected pixels such as 416, or WIDTHxHEIGHT"):
        said(tmp_path, size="big")
    with pytest.raises(ModelError, match="expected sides of at most 8192 pixels; got 32x9999"):
        said(tmp_path, size="32x9999")


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    _, weights = write(tmp_path, SMALL)
    (tmp_path / "n.onnx").write_text("old")
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ModelError, match="truncated"):
        said(tmp_path)
    assert (tmp_path / "n.onnx").read_text() == "old"


def test_arguments_of_the_command_that_cannot_be_meant(tmp_path: Path) -> None:
    write(tmp_path, SMALL)
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "d.onnx").mkdir()
    with pytest.raises(ConfigError, match="--resize: expected letterbox or stretch; got 'crop'"):
        said(tmp_path, resize="crop")
    with pytest.raises(ConfigError, match=r"--output: expected the name of an .onnx file; got 'x.pt'"):
        said(tmp_path, output="x.pt")
    with pytest.raises(ConfigError, match=r"--labels: expected one label a line"):
        said(tmp_path, labels=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=r"--labels: there is no file none.names"):
        said(tmp_path, labels="none.names")
    with pytest.raises(SinkOpenError, match=r"cannot write .*none/n.onnx: No such file"):
        said(tmp_path, output=str(tmp_path / "none" / "n.onnx"))
    with pytest.raises(SinkOpenError, match=r"cannot write .*d.onnx: it is a folder"):
        said(tmp_path, output=str(tmp_path / "d.onnx"))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("read", ["n.cfg", "n.weights", "n.names"])
@pytest.mark.parametrize("how", ["same", "symlink", "link"])
def test_what_is_read_is_not_written_over(tmp_path: Path, read: str, how: str) -> None:
    write(tmp_path, SMALL)
    (tmp_path / "n.names").write_text("a\nb\n")
    target = tmp_path / "n.onnx"
    if how == "same":
        (tmp_path / read).rename(target)
    else:
        (target.symlink_to if how == "symlink" else target.hardlink_to)(tmp_path / read)
    names = ("n.cfg", "n.weights", "n.names")
    files = [target if how == "same" and name == read else tmp_path / name for name in names]
    before = [path.read_bytes() for path in files]
    cfg, weights, labels = map(str, files)
    with pytest.raises(ConfigError, match=r"--output: it would overwrite .*, which is read"):
        convert(cfg, weights, str(target), Console(file=io.StringIO()), labels=labels)
    assert [path.read_bytes() for path in files] == before


@pytest.fixture(scope="module")
def yolo_fastest(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Converted]:
    folder = tmp_path_factory.mktemp("fastest")
    files = (assets / "models" / f"yolo-fastest-1.1.{suffix}" for suffix in ("cfg", "weights"))
    labels = (assets / "models" / "coco80.txt").read_text().splitlines()
    done = convert_darknet(*files, coco=labels)
    (folder / "fastest.onnx").write_bytes(done.model)
    return folder / "fastest.onnx", done


# Where the bus stands in bus.jpg (810×1080), by eye.
BUS = np.array([20, 230, 805, 755])


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    return both / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)


@pytest.mark.assets
def test_what_the_metadata_say_is_enough_to_find_the_bus(
    assets: Path, yolo_fastest: tuple[Path, Converted]
) -> None:
    path, done = yolo_fastest
    assert done.output_shape == (84, 1500)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    card, height_width = json.loads(metadata["framerail.card"]), ast.literal_eval(metadata["imgsz"])
    spec = InputSpec(*height_width, **json.loads(metadata["framerail.input"]))
    blob, box = Blobber(spec)(cv2.imread(str(assets / "images" / "bus.jpg")))
    family = DECODERS[metadata["framerail.family"]]
    params = family.check_params(json.loads(metadata["framerail.params"]))
    found = family.decode(session.run(None, {"images": blob}), done.input_hw, card["conf_threshold"], params)
    names = ast.literal_eval(metadata["names"])
    labels = [names[int(index)] for index in found.class_id]
    assert set(labels) == {"person", "bus"}
    best = max((i for i, label in enumerate(labels) if label == "bus"), key=lambda i: found.scores[i])
    assert overlap(box.unletterbox(found.xyxy[best : best + 1])[0], BUS) > 0.8


@pytest.mark.assets
def test_yolo_fastest_finds_the_bus_and_needs_nothing_else(
    assets: Path, yolo_fastest: tuple[Path, Converted]
) -> None:
    found = Detector(str(yolo_fastest[0])).detect(cv2.imread(str(assets / "images" / "bus.jpg")))
    assert set(found.labels) == {"person", "bus"}
    assert list(found.labels).count("person") >= 2
    (bus,) = (box for box, label in zip(found.xyxy, found.labels, strict=True) if label == "bus")
    assert overlap(bus, BUS) > 0.8
