"""Each family against a loop over its formula; malformed outputs; real models told apart."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.decoders import DECODERS, TensorInfo, identify
from pipeline.errors import ModelError, UnknownLayoutError
from pipeline.vision.letterbox import InputSpec

HW = (64, 96)


def cells(input_hw, strides):
    return [
        (x, y, stride)
        for stride in strides
        for y in range(math.ceil(input_hw[0] / stride))
        for x in range(math.ceil(input_hw[1] / stride))
    ]


def table(rows):
    """Box, score and class of each candidate, sorted, to compare without regard to order."""
    return sorted((round(float(score), 5), int(kind), *(float(v) for v in box)) for box, score, kind in rows)


def assert_same(found, expected):
    assert found.xyxy.dtype == found.scores.dtype == np.float32 and found.class_id.dtype == np.int32
    assert found.xyxy.shape == (len(found), 4) and len(found.class_id) == len(found)
    got = table(zip(found.xyxy, found.scores, found.class_id, strict=True))
    assert len(got) == len(expected) > 0
    np.testing.assert_allclose(got, table(expected), rtol=1e-4, atol=2e-3)


def passing(scores, threshold, multi_label):
    """The classes of one box that are candidates."""
    above = [kind for kind, score in enumerate(scores) if score > threshold]
    return above if multi_label or not above else [max(above, key=lambda kind: (scores[kind], -kind))]


def yolov8_by_loop(output, threshold, multi_label):
    for column in output[0].T.astype(np.float64):
        cx, cy, w, h = column[:4]
        for kind in passing(column[4:], threshold, multi_label):
            yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), column[4 + kind], kind


def yolox_by_loop(output, threshold, multi_label, decoded, strides):
    for row, (x, y, stride) in zip(output[0].astype(np.float64), cells(HW, strides), strict=True):
        cx, cy, w, h = row[:4]
        if not decoded:
            cx, cy, w, h = (cx + x) * stride, (cy + y) * stride, math.exp(w) * stride, math.exp(h) * stride
        scores = row[4] * row[5:]
        for kind in passing(scores, threshold, multi_label):
            yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), scores[kind], kind


def nanodet_by_loop(scores, logits, threshold, multi_label, strides, anchor):
    for row, distribution, (x, y, stride) in zip(scores, logits, cells(HW, strides), strict=True):
        sides = []
        for side in distribution.astype(np.float64).reshape(4, -1):
            weights = np.exp(side)
            sides.append(stride * sum(i * w for i, w in enumerate(weights)) / weights.sum())
        cx, cy = (x + anchor) * stride, (y + anchor) * stride
        left, top = max(0, cx - sides[0]), max(0, cy - sides[1])
        right, bottom = min(HW[1], cx + sides[2]), min(HW[0], cy + sides[3])
        for kind in passing(row, threshold, multi_label):
            yield (left, top, right, bottom), row[kind], kind


def random(seed, *shape):
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("multi_label", [False, True])
def test_yolov8(threshold, multi_label):
    output = random(0, 1, 4 + 5, 126)
    output[0, :4] *= 90
    found = DECODERS["yolov8"].decode([output], HW, threshold, {"multi_label": multi_label})
    assert_same(found, list(yolov8_by_loop(output, threshold, multi_label)))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64)])
def test_yolox(threshold, multi_label, decoded, strides):
    output = random(1, 1, len(cells(HW, strides)), 5 + 4)
    output[0, :, :4] = output[0, :, :4] * 4 - 1 if not decoded else output[0, :, :4] * 90
    params = {"multi_label": multi_label, "decoded": decoded}
    found = DECODERS["yolox"].decode([output], HW, threshold, params)
    assert_same(found, list(yolox_by_loop(output, threshold, multi_label, decoded, strides)))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.97])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("reg_max", [7, 10])
@pytest.mark.parametrize("shuffled", [False, True])
def test_nanodet(threshold, multi_label, reg_max, shuffled):
    sizes = [len(cells(HW, (stride,))) for stride in (8, 16, 32)]
    scores = [random(size, 1, size, 6) for size in sizes]
    logits = [random(-size % 100, 1, size, 4 * (reg_max + 1)) * 8 for size in sizes]
    outputs = [*scores, *logits]
    if shuffled:
        outputs = [outputs[i] for i in (4, 2, 0, 5, 1, 3)]
    found = DECODERS["nanodet"].decode(outputs, HW, threshold, {"multi_label": multi_label})
    flat_scores, flat_logits = np.concatenate(scores, 1)[0], np.concatenate(logits, 1)[0]
    assert_same(
        found, list(nanodet_by_loop(flat_scores, flat_logits, threshold, multi_label, (8, 16, 32), 0.5))
    )


@pytest.mark.parametrize("reg_max", [7, 10])
@pytest.mark.parametrize(("strides", "anchor"), [((8, 16, 32), 0.5), ((8, 16, 32, 64), 0.0)])
def test_nanodet_plus(reg_max, strides, anchor):
    count = len(cells(HW, strides))
    scores, logits = random(2, count, 6), random(3, count, 4 * (reg_max + 1)) * 8
    fused = np.concatenate([scores, logits], axis=1)[None]
    found = DECODERS["nanodet"].decode([fused], HW, 0.8, {"reg_max": reg_max})
    assert_same(found, list(nanodet_by_loop(scores, logits, 0.8, False, strides, anchor)))


def test_nanodet_takes_the_order_it_is_told_where_shapes_cannot_tell():
    # 32 classes, and 32 = 4 × (7 + 1) columns of distances.
    sizes = [len(cells(HW, (stride,))) for stride in (8, 16, 32)]
    scores = [random(size, 1, size, 32) for size in sizes]
    logits = [random(size + 1, 1, size, 32) * 8 for size in sizes]
    outputs = [array for pair in zip(logits, scores, strict=True) for array in pair]
    names = [f"{kind}_pred_stride_{stride}" for stride in (8, 16, 32) for kind in ("dis", "cls")]
    infos = [TensorInfo(name, o.shape, "float32") for name, o in zip(names, outputs, strict=True)]
    identified = identify([image(HW)], infos, {})
    assert identified.params["order"] == ((1, 0), (3, 2), (5, 4))
    found = DECODERS["nanodet"].decode(outputs, HW, 0.95, identified.params)
    flat_scores, flat_logits = np.concatenate(scores, 1)[0], np.concatenate(logits, 1)[0]
    assert_same(found, list(nanodet_by_loop(flat_scores, flat_logits, 0.95, False, (8, 16, 32), 0.5)))


def sound_outputs(name, count=126, dtype=np.float32):
    """Outputs of each family for HW with scores of .5, and boxes well inside."""
    if name == "yolov8":
        output = np.full((1, 7, count), 0.5, dtype)
        output[0, :4] = 30
        return [output]
    if name == "yolox":
        return [np.full((1, count, 8), 0.75, dtype)]
    sizes = [96, 24, 6]
    return [np.full((1, s, 3), 0.5, dtype) for s in sizes] + [np.zeros((1, s, 32), dtype) for s in sizes]


@pytest.mark.parametrize("name", DECODERS)
def test_batch_axis_dtype_and_empty(name):
    decode = DECODERS[name].decode
    outputs = sound_outputs(name)
    whole = decode(outputs, HW, 0.3, {})
    assert len(whole) == 126
    assert np.array_equal(decode([o[0] for o in outputs], HW, 0.3, {}).xyxy, whole.xyxy)
    half = decode([o.astype(np.float16) for o in outputs], HW, 0.3, {})
    assert half.xyxy.dtype == half.scores.dtype == np.float32
    np.testing.assert_allclose(half.xyxy, whole.xyxy, rtol=2e-3, atol=0.1)
    assert decode(outputs, HW, 0.99, {}).xyxy.shape == (0, 4)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_boxes_that_are_not_finite_are_dropped_and_the_rest_is_kept(name, bad, threshold):
    outputs = sound_outputs(name)
    target = outputs[-1]
    # Cell 3 of the (last) output: a box coordinate that is not a number.
    target[(0, 0, 3) if name == "yolov8" else (0, 3, 0)] = bad
    found = DECODERS[name].decode(outputs, HW, threshold, {})
    assert np.isfinite(found.xyxy).all()
    # A logit of -inf is a probability of 0, which is sound.
    assert len(found) == 126 - (not (name == "nanodet" and bad == -np.inf))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_scores_that_are_not_numbers_lose_to_the_others(name, multi_label, threshold):
    outputs = sound_outputs(name)
    scores = outputs[0]
    scores[(0, 4, slice(None)) if name == "yolov8" else (0, slice(None), 0 if name == "nanodet" else 5)] = (
        np.nan
    )
    found = DECODERS[name].decode(outputs, HW, threshold, {"multi_label": multi_label})
    assert np.isfinite(found.scores).all()
    first_level = 96 if name == "nanodet" else 126
    kept = 2 if multi_label else 1
    rest = (126 - first_level) * (3 if multi_label else 1)
    assert len(found) == kept * first_level + rest
    assert (found.class_id > 0).sum() >= kept * first_level


@pytest.mark.parametrize("name", DECODERS)
def test_logits_in_the_place_of_scores_are_refused(name):
    outputs = sound_outputs(name)
    outputs[0][..., :] = 7.0
    with pytest.raises(ModelError, match=r"scores reach .*expected probabilities"):
        DECODERS[name].decode(outputs, HW, 0.3, {})


def test_scores_a_little_over_one_become_one():
    outputs = sound_outputs("yolov8")
    outputs[0][0, 4:] = 1.001
    assert DECODERS["yolov8"].decode(outputs, HW, 0.3, {}).scores.max() == 1


def test_boxes_inside_out_are_dropped():
    outputs = sound_outputs("yolov8")
    outputs[0][0, 2, :10] = -5
    assert len(DECODERS["yolov8"].decode(outputs, HW, 0.3, {})) == 116


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("yolov8", []),
        ("yolov8", [np.zeros((1, 8, 126), np.float32)] * 2),
        ("yolov8", [np.zeros((1, 4, 126), np.float32)]),
        ("yolov8", [np.zeros((2, 8, 126), np.float32)]),
        ("yolov8", [np.zeros((1, 8, 126), np.int64)]),
        ("yolov8", [np.float32(0)]),
        ("yolox", [np.zeros((1, 125, 8), np.float32)]),
        ("yolox", [np.zeros((1, 126, 5), np.float32)]),
        ("nanodet", [np.zeros((1, 126, 32), np.float32)]),
        ("nanodet", [np.zeros((1, 125, 112), np.float32)]),
        ("nanodet", sound_outputs("nanodet")[:5]),
        ("nanodet", [o[:, :5] for o in sound_outputs("nanodet")]),
    ],
)
def test_malformed_outputs_are_named(name, outputs):
    with pytest.raises(ModelError, match=rf"{name}: expected .*; got "):
        DECODERS[name].decode(outputs, HW, 0.3, {})


numbers = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, 1e-40, 100.0, -100.0]),
)
shapes = st.one_of(
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=8),
    st.sampled_from([(1, 8, 126), (1, 126, 8), (126, 9), (1, 96, 3), (1, 24, 3), (1, 6, 3), (1, 126, 35)]),
    st.sampled_from([(1, 96, 32), (1, 24, 32), (1, 6, 32)]),
)
dtypes = st.sampled_from([np.float32, np.float16, np.float64, np.int64, np.uint8, np.bool_])


@st.composite
def arrays(draw):
    """Any array; the fill is one strange number and a few places hold others."""
    shape, dtype = draw(shapes), draw(dtypes)
    with np.errstate(all="ignore"):
        array = np.full(shape, draw(numbers)).astype(dtype)
        for number in draw(st.lists(numbers, max_size=6)):
            if array.size:
                array.flat[draw(st.integers(0, array.size - 1))] = np.asarray(number).astype(dtype)
    return array


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(DECODERS)),
    st.one_of(st.lists(arrays(), max_size=7), st.just(None)),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10**6), numbers), max_size=8),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    st.booleans(),
)
def test_any_output_is_decoded_to_sound_candidates_or_refused(name, outputs, damage, threshold, multi_label):
    if outputs is None:
        outputs = sound_outputs(name)
        for index, place, number in damage:
            array = outputs[index % len(outputs)]
            array.flat[place % array.size] = number
    try:
        found = DECODERS[name].decode(outputs, HW, threshold, {"multi_label": multi_label})
    except ModelError:
        return
    assert np.isfinite(found.xyxy).all() and np.isfinite(found.scores).all()
    assert (found.scores > threshold).all() and (found.scores <= 1).all()
    assert (found.xyxy[:, :2] <= found.xyxy[:, 2:]).all()
    assert found.xyxy.shape == (len(found.scores), 4) == (len(found.class_id), 4)


def test_decoding_leaves_the_outputs_alone():
    for name, family in DECODERS.items():
        outputs = sound_outputs(name)
        before = [o.copy() for o in outputs]
        for output in outputs:
            output.setflags(write=False)
        family.decode(outputs, HW, 0.3, {})
        assert all(np.array_equal(a, b) for a, b in zip(outputs, before, strict=True))


def test_params_of_a_card_are_checked():
    nanodet = DECODERS["nanodet"]
    checked = nanodet.check_params({"reg_max": 10, "strides": [8, 16], "anchor": 0})
    assert checked == {"reg_max": 10, "strides": (8, 16), "anchor": 0.0}
    with pytest.raises(ModelError, match="unknown parameter 'regmax'; known: reg_max"):
        nanodet.check_params({"regmax": 10})
    for wrong in ({"reg_max": 0}, {"strides": [16, 8]}, {"strides": 8}, {"anchor": 2}, {"multi_label": 1}):
        with pytest.raises(ModelError, match=f"{next(iter(wrong))}: expected .*; got"):
            nanodet.check_params(wrong)


# Identification


def image(input_hw=(640, 640), dtype="float32", batch=1):
    return TensorInfo("images", (batch, 3, *input_hw), dtype)


def output(*shape, name="output0"):
    return TensorInfo(name, shape, "float32")


COCO_NAMES = repr({i: f"thing {i}" for i in range(80)})


@pytest.mark.parametrize(
    ("model", "family", "size", "params", "labels"),
    [
        ("nanodet_g_416", "nanodet", 416, {"reg_max": 10, "strides": (8, 16, 32)}, 0),
        ("nanodet_m_320", "nanodet", 320, {"reg_max": 7, "strides": (8, 16, 32)}, 0),
        ("yolox_nano", "yolox", 416, {"strides": (8, 16, 32), "decoded": False}, 0),
        ("yolov8n_640_deq", "yolov8", 640, {}, 80),
        ("yolov8n_int8_msh", "yolov8", 640, {}, 80),
    ],
)
def test_real_models_are_identified(assets, model, family, size, params, labels):
    found = identify(*declared(assets, model))
    assert (found.family.name, found.num_classes) == (family, 80)
    assert (found.input["height"], found.input["width"]) == (size, size)
    assert params.items() <= found.params.items()
    assert len(found.labels) == labels and found.labels[:1] == (("person",) if labels else ())
    assert {"family", "classes", "labels", "size", *asdict(found.family.input)} <= set(found.reasons)
    assert InputSpec(**found.input).blob_shape == (1, 3, size, size)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("yolov5n_fp32", "doesn't declare the sizes of its outputs"),
        ("yolo26n_deq", "end-to-end"),
        ("FastestDet", "feature map"),
        ("efficientnet_lite0_224", "classifier"),
        ("ultraface_RFB-320", "SSD"),
        ("deimv2_femto", "2 inputs"),
        ("yolov8n-seg_320_deq", "segmentation"),
        ("centernet_mbv3_512_faithful", "no known layout"),
    ],
)
def test_real_models_of_other_kinds_are_refused(assets, model, message):
    inputs, outputs, metadata = declared(assets, model)
    with pytest.raises(UnknownLayoutError) as caught:
        identify(inputs, outputs, metadata)
    text = str(caught.value)
    assert message in text
    assert all(str(tensor) in text for tensor in [*inputs, *outputs])
    assert all(family in text for family in DECODERS)


def declared(assets, model):
    import onnxruntime

    dtypes = {"tensor(float)": "float32", "tensor(int64)": "int64"}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        assets / "models" / f"{model}.onnx", options, providers=["CPUExecutionProvider"]
    )
    inputs, outputs = (
        [
            TensorInfo(t.name, tuple(s if isinstance(s, int) else None for s in t.shape), dtypes[t.type])
            for t in tensors
        ]
        for tensors in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs, session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize(
    ("inputs", "outputs", "metadata", "message"),
    [
        ([], [output(1, 84, 8400)], {}, "0 inputs"),
        ([image(), image()], [output(1, 84, 8400)], {}, "2 inputs"),
        ([image(dtype="uint8")], [output(1, 84, 8400)], {}, "input is uint8"),
        ([TensorInfo("x", (1, 640, 640, 3), "float32")], [output(1, 84, 8400)], {}, "NHWC"),
        ([TensorInfo("x", (1, 1, 640, 640), "float32")], [output(1, 84, 8400)], {}, "1 channels"),
        ([TensorInfo("x", (3, 640, 640), "float32")], [output(1, 84, 8400)], {}, "rank 3"),
        ([image()], [output(1, 25200, 85)], {}, "YOLOv5"),
        ([image((None, None))], [output(1, 25200, 85)], {}, "YOLOv5"),
        ([image()], [output(1, 300, 6)], {}, "end-to-end"),
        ([image()], [output(1, 8400, 84)], {}, "axes exchanged"),
        ([image()], [output(1, 56, 8400)], {"task": "pose"}, "pose"),
        ([image()], [output(1, 20, 21504)], {"task": "obb"}, "rotated"),
        ([image()], [output(1, 1000)], {"task": "classify"}, "classifier"),
        ([image()], [output(1, 56, 8400)], {"task": "depth"}, "another task"),
        ([image()], [output(1, 300, 6)], {"args": "{'nms': True}"}, "its own NMS"),
        ([image()], [output(1, 116, 8400), output(1, 32, 160, 160)], {}, "segmentation"),
        ([image()], [output(1, 56, 8400)], {"names": "{0: 'person'}"}, "no known layout with 1 classes"),
        ([image()], [output(1, 84, None)], {}, "doesn't declare the sizes"),
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
    with pytest.raises(UnknownLayoutError, match="nanodet with 68 classes or yolox with 95 classes"):
        identify(*arguments)
    assert identify(*arguments, family="yolox").num_classes == 95
    by_count = identify(*arguments, num_classes=56)
    assert (by_count.family.name, by_count.params["reg_max"]) == ("nanodet", 10)
    with pytest.raises(UnknownLayoutError, match="doesn't fit family yolov8"):
        identify(*arguments, family="yolov8")
    with pytest.raises(ModelError, match="unknown family 'yolov9'; known: nanodet, yolox, yolov8"):
        identify(*arguments, family="yolov9")


@pytest.mark.parametrize(
    ("shape", "family", "classes", "params"),
    [
        ((1, 84, 8400), "yolov8", 80, {}),
        ((1, 5, 8400), "yolov8", 1, {}),
        ((1, 84, 34000), "yolov8", 80, {}),  # strides 4, 8, 16, 32
        ((1, 8400, 85), "yolox", 80, {"strides": (8, 16, 32)}),
        ((1, 8400, 8), "yolox", 3, {"strides": (8, 16, 32)}),
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


def test_float16_models_are_fed_float16():
    found = identify([image(dtype="float16")], [output(1, 84, 8400)], {})
    assert InputSpec(**found.input).dtype == np.float16


@pytest.mark.parametrize("names", ["{0: 'a', 2: 'b'}", "not a literal (", "[", "5", "{'a': 0}", "{[]: 1}"])
def test_names_that_cannot_be_used_are_reported(names):
    found = identify([image()], [output(1, 84, 8400)], {"names": names})
    assert found.labels == () and found.reasons["labels"].startswith("none: ")


def test_names_may_be_a_list():
    found = identify([image()], [output(1, 6, 8400)], {"names": "['cat', 'dog']"})
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
