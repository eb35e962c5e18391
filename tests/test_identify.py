"""Models told apart: by what their files declare, and by what they answer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decoders import DECODERS, TensorInfo, identify
from pipeline.errors import ModelError, UnknownLayoutError
from pipeline.runtime.catalog import locate
from pipeline.runtime.model import describe, open_model
from pipeline.runtime.session import Session
from pipeline.vision.letterbox import InputSpec
from tests.decoding import image, output

COCO_NAMES = repr({i: f"thing {i}" for i in range(80)})


REAL = {
    "FastestDet": ("fastestdet", 80, (352, 352), "BGR", "stretch"),
    "centernet_mbv3_512_faithful": ("end2end-centernet", 80, (512, 512), "RGB", "letterbox"),
    "deimv2_atto_int8_msh": ("deim", 80, (320, 320), "RGB", "stretch"),
    "deimv2_femto": ("deim", 80, (416, 416), "RGB", "stretch"),
    "efficientnet_lite0_224": ("classifier-half", 1000, (224, 224), "RGB", "crop"),
    "nanodet_g_416": ("nanodet", 80, (416, 416), "BGR", "letterbox"),
    "nanodet_m_320": ("nanodet", 80, (320, 320), "BGR", "letterbox"),
    "ultraface_RFB-320": ("ultraface", 1, (240, 320), "RGB", "stretch"),
    "yolo26n_deq": ("end2end", 80, (640, 640), "RGB", "letterbox"),
    "yolov5n_fp32": ("yolov5", 80, (640, 640), "RGB", "letterbox"),
    "yolov8n-seg_320_deq": ("yolov8-seg", 80, (320, 320), "RGB", "letterbox"),
    "yolov8n_640_deq": ("yolov8", 80, (640, 640), "RGB", "letterbox"),
    "yolov8n_int8_msh": ("yolov8", 80, (640, 640), "RGB", "letterbox"),
    "yolox_nano": ("yolox", 80, (416, 416), "BGR", "letterbox"),
}


@pytest.mark.assets
@pytest.mark.parametrize("model", REAL)
def test_every_real_model_is_identified_with_nothing_but_its_file(assets, model):
    family, classes, size, color, resize = REAL[model]
    described = describe(locate(str(assets / "models" / f"{model}.onnx")), session_of(assets, model))
    spec = described.spec
    assert (described.family.name, len(described.labels)) == (family, classes)
    assert ((spec.height, spec.width), spec.color, spec.resize) == (size, color, resize)
    assert {"family", "classes", "labels", "size", *asdict(described.family.input)} <= set(described.reasons)
    # What the file leaves open is said: of the real ones, how the classifier is fed.
    assert (described.found.doubt is not None) == (family == "classifier-half")


@pytest.mark.assets
@pytest.mark.parametrize(("model", "told"), [("nanodet_g_416", False), ("yolov8n_640_deq", True)])
def test_an_order_of_colours_that_nothing_tells_is_said_at_opening(assets, caplog, model, told):
    caplog.set_level("INFO")
    open_model(str(assets / "models" / f"{model}.onnx"), "cpu", threads=2)
    assert ("the trial run does not tell" in caplog.text) == (not told)
    caplog.clear()
    open_model("nanodet-g", "cpu", threads=2)  # its card says so
    assert "does not tell" not in caplog.text


RCNN = [output(None, 4), output(None, dtype="int64"), output(None)]


def session_of(assets, model):
    return Session(assets / "models" / f"{model}.onnx", "cpu", threads=2)


@pytest.mark.parametrize(
    ("inputs", "outputs", "metadata", "message"),
    [
        ([], [output(1, 84, 8400)], {}, "0 inputs"),
        ([image(), image()], [output(1, 84, 8400)], {}, "2 inputs"),
        ([image(dtype="int32")], [output(1, 84, 8400)], {}, "input is int32"),
        (
            [image(), TensorInfo("what", (1, 2), "int64")],
            [output(1, 84, 8400)],
            {},
            "what int64 [1, 2] is not known",
        ),
        ([TensorInfo("x", (1, 1, 640, 640), "float32")], [output(1, 84, 8400)], {}, "1 channels"),
        ([TensorInfo("x", (4, 640, 640), "float32")], [output(1, 84, 8400)], {}, "rank 3"),
        ([image()], [output(1, 56, 8400)], {"task": "depth"}, "another task"),
        ([image()], [*RCNN, output(None, 1, 28, 28)], {}, "gives masks beside boxes"),
        ([image()], [*RCNN, output(None, 17, 3), output(None, 17)], {}, "gives keypoints beside boxes"),
        ([image()], [output(1, 84, 8400)], {"task": "pose"}, "no known layout"),
        ([image()], [output(1, 57, 8401)], {"names": "{0: 'person'}"}, "no known layout with 1 class,"),
        ([image()], [output(1, 7, 5, 3)], {}, "no known layout"),
        ([image()], [], {}, "Outputs: none"),
        ([image()], [output(1, 8400, 100)], {}, "yolox with 95 classes"),
    ],
)
def test_other_models_are_refused_with_the_reason(inputs, outputs, metadata, message):
    with pytest.raises(UnknownLayoutError) as caught:
        identify(inputs, outputs, metadata)
    assert message in str(caught.value)


def test_what_is_ambiguous_is_settled_by_a_card():
    arguments = [image()], [output(1, 8400, 100)], {}
    with pytest.raises(UnknownLayoutError, match=r"nanodet with 68 classes .* or yolox with 95 classes"):
        identify(*arguments)
    assert identify(*arguments, family="yolox").num_classes == 95
    by_count = identify(*arguments, labels=[""] * 56)
    assert (by_count.family.name, by_count.params["reg_max"]) == ("nanodet", 10)
    with pytest.raises(UnknownLayoutError, match="doesn't fit family fastestdet"):
        identify(*arguments, family="fastestdet")
    with pytest.raises(ModelError, match=r"unknown family 'yolov9'; known: .*nanodet.* yolov8,"):
        identify(*arguments, family="yolov9")


@pytest.mark.parametrize(
    ("shape", "family", "classes", "params"),
    [
        ((1, 84, 8400), "yolov8", 80, {}),
        ((1, 5, 8400), "yolov8", 1, {}),
        ((1, 84, 34000), "yolov8", 80, {}),  # strides 4, 8, 16, 32
        ((1, 8400, 85), "yolox", 80, {"strides": (8, 16, 32)}),
        ((1, 8500, 85), "yolox", 80, {"strides": (8, 16, 32, 64)}),
        ((1, 8500, 112), "nanodet", 80, {"reg_max": 7, "anchor": 0.0}),
        ((1, 8500, 124), "nanodet", 80, {"reg_max": 10, "anchor": 0.0}),
        ((1, 8400, 112), "nanodet", 80, {"reg_max": 7, "anchor": 0.5}),
    ],
)
def test_single_outputs_are_told_apart(shape, family, classes, params):
    found = identify([image()], [output(*shape)], {})
    assert (found.family.name, found.num_classes) == (family, classes)
    assert params.items() <= found.params.items()
    decoded = found.family.decode([np.zeros(shape, np.float32)], (640, 640), 0.3, found.params)
    assert len(decoded) == 0


def test_a_dynamic_size_comes_from_the_metadata_and_else_from_the_family():
    dynamic = [image((None, None), batch=None)]
    metadata = {"imgsz": "[320, 480]", "names": COCO_NAMES}
    found = identify(dynamic, [output(None, 84, None)], metadata)
    assert (found.input["height"], found.input["width"]) == (320, 480)
    assert "imgsz" in found.reasons["size"] and found.labels[79] == "thing 79"
    found = identify(dynamic, [output(None, 84, 8400)], {"imgsz": "640"})
    assert (found.input["height"], found.input["width"]) == (640, 640)
    found = identify(dynamic, [output(None, 3549, 85)], {})
    assert (found.input["height"], found.input["width"]) == (416, 416)
    assert "default of the family yolox" in found.reasons["size"]


def only(sizes, layout, answer):
    """A model that runs on pictures of these sizes and this layout alone, whatever it declares."""

    def trial(fed):
        if (fed["height"], fed["width"]) not in sizes or fed.get("layout", "NCHW") != layout:
            raise ModelError("it does not run so")
        return answer

    return trial


def test_an_unknown_layout_is_said_where_it_runs_in_the_size_of_some_family_only():
    dynamic, odd = [image((None, None), batch=None)], [np.zeros((1, 7, 11, 13), np.float32)]
    with pytest.raises(UnknownLayoutError, match="fit no known layout"):
        identify(dynamic, [output(None, None, None, None)], {}, trial=only([(640, 640)], "NCHW", odd))
    with pytest.raises(ModelError, match=r"^it does not run so$"):
        identify(dynamic, [output(None, None, None, None)], {}, trial=only([], "NCHW", odd))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_axes_that_are_all_free_are_tried_in_both_orders(layout):
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0] = 10, 10, 90, 90, 0.9, 3
    inputs = [TensorInfo("images", (None, None, None, None), "float32")]
    trial = only([(640, 640)], layout, [rows])
    found = identify(inputs, [output(1, 300, 6)], {"author": "Ultralytics"}, trial=trial)
    assert found.family.name == "end2end" and found.input.get("layout", "NCHW") == layout
    assert ("not as NCHW" in found.reasons["layout"]) == (layout == "NHWC")


def test_a_uint8_input_takes_the_pixels_themselves_and_channels_may_come_last():
    last = TensorInfo("x", (1, 480, 640, 3), "uint8")
    found = identify([last], [output(1, 84, 6300)], {})
    spec = InputSpec(**found.input)
    assert (spec.blob_shape, spec.dtype, spec.mean, spec.std) == (
        (1, 480, 640, 3),
        np.uint8,
        (0,) * 3,
        (1,) * 3,
    )
    assert "uint8" in found.reasons["std"]


def test_float16_models_are_fed_float16():
    found = identify([image(dtype="float16")], [output(1, 84, 8400)], {})
    assert InputSpec(**found.input).dtype == np.float16


@pytest.mark.parametrize("names", ["{0: 'a', 2: 'b'}", "not a literal (", "[", "5", "{'a': 0}", "{[]: 1}"])
def test_names_that_cannot_be_used_are_reported(names):
    found = identify([image()], [output(1, 84, 8400)], {"names": names})
    assert found.labels == () and "have names, but not one for each class" in found.reasons["labels"]
    assert "names in the model's metadata cannot be read" in found.doubt
    stated = identify([image()], [output(1, 84, 8400)], {"names": names}, labels=[""] * 80)
    assert stated.doubt is None, "the card names them"


@pytest.mark.parametrize(
    "names",
    ["['cat', 'dog']", '{"0": "cat", "1": "dog"}', "{1: 'cat', 2: 'dog'}", "cat,dog", "cat, dog", "cat\ndog"],
)
def test_names_are_read_as_exporters_write_them(names):
    found = identify([image()], [output(1, 6, 8400)], {"names": names})
    assert found.labels == ("cat", "dog") and found.num_classes == 2
    assert found.reasons["labels"] == "metadata names"


sizes = st.one_of(st.none(), st.integers(0, 40), st.sampled_from([3, 80, 84, 85, 640, 8400, 8500, 25200, 6]))
tensors = st.builds(
    TensorInfo,
    st.sampled_from(["images", "cls_pred_stride_8", "dis_pred_stride_8", "cls_pred_stride_0", "x"]),
    st.lists(sizes, max_size=5).map(tuple),
    st.sampled_from(["float32", "float16", "uint8", "int64"]),
)
metadata = st.dictionaries(
    st.sampled_from(["names", "imgsz", "task", "end2end", "args", "stride"]),
    st.one_of(st.text(max_size=20), st.sampled_from([COCO_NAMES, "[640, 640]", "0", "-5", "[0]", "detect"])),
)


@settings(max_examples=300)
@given(
    st.lists(st.one_of(tensors, st.just(image()), st.just(image((None, 640)))), min_size=1, max_size=2),
    st.lists(tensors, max_size=6),
    metadata,
)
def test_any_model_is_identified_or_refused(inputs, outputs, metadata):
    try:
        found = identify(inputs, outputs, metadata)
    except UnknownLayoutError:
        return
    InputSpec(**found.input)
    assert found.num_classes >= 1 and len(found.labels) in (0, found.num_classes)


def test_every_family_is_in_the_docs():
    text = (Path(__file__).resolve().parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    told = {
        name.strip(" `")
        for line in text.splitlines()
        if line.startswith("| `")
        for name in line.split("|")[1].split(",")
    }
    assert set(DECODERS) <= told
