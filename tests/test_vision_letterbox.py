"""Blobs against plain numpy and against OpenCV's own; geometry by its properties."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.vision.blobber import Blobber
from pipeline.vision.letterbox import InputSpec, Letterbox

YOLO = InputSpec(96, 128)
NANODET = InputSpec(96, 96, "BGR", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), align="center", pad=0)
YOLOX = InputSpec(96, 128, "BGR", (0, 0, 0), (1, 1, 1), align="top-left")
STRETCH = InputSpec(96, 128, "RGB", (1, 2, 3), (10, 20, 30), resize="stretch")
HALF = InputSpec(96, 128, "RGB", (1, 2, 3), (255, 254, 253), dtype=np.dtype("float16"))
LAST = InputSpec(96, 128, layout="NHWC")
LAST_BGR = InputSpec(96, 96, "BGR", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), layout="NHWC")
PIXELS = InputSpec(96, 128, "RGB", (0, 0, 0), (1, 1, 1), dtype=np.dtype("uint8"))
PIXELS_LAST = InputSpec(96, 128, "BGR", (0, 0, 0), (1, 1, 1), dtype=np.dtype("uint8"), layout="NHWC")
SPECS = {
    "yolo": YOLO,
    "nanodet": NANODET,
    "yolox": YOLOX,
    "stretch": STRETCH,
    "half": HALF,
    "last": LAST,
    "last BGR": LAST_BGR,
    "pixels": PIXELS,
    "pixels last": PIXELS_LAST,
}
SIZES = [(1, 1), (1, 5000), (5000, 1), (96, 128), (96, 96), (48, 200), (301, 47), (33, 35), (480, 640)]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def straightforward(image, spec):
    """The blob by definition, in float64: resize, border, channels, arithmetic, layout."""
    height, width = image.shape[:2]
    if spec.resize == "stretch":
        canvas = cv2.resize(image, (spec.width, spec.height))
    else:
        ratio = min(spec.height / height, spec.width / width)
        new_height, new_width = max(1, round(height * ratio)), max(1, round(width * ratio))
        if (new_height, new_width) != (height, width):
            image = cv2.resize(image, (new_width, new_height))
        rest_y, rest_x = spec.height - new_height, spec.width - new_width
        # Ultralytics: the near side gets round(rest / 2 - 0.1), the far side round(rest / 2 + 0.1).
        top, left = (round(rest_y / 2 - 0.1), round(rest_x / 2 - 0.1)) if spec.align == "center" else (0, 0)
        canvas = np.full((spec.height, spec.width, 3), spec.pad, np.uint8)
        canvas[top : top + new_height, left : left + new_width] = image
    channels = canvas[..., ::-1] if spec.color == "RGB" else canvas
    blob = (channels.astype(np.float64) - spec.mean) / spec.std
    return blob[None] if spec.layout == "NHWC" else blob.transpose(2, 0, 1)[None]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_blob_is_the_straightforward_one(name, size):
    spec = SPECS[name]
    image = noise(*size)
    nothing = 77 if spec.dtype == np.uint8 else np.nan
    out = np.full(spec.blob_shape, nothing, spec.dtype)
    blob, letterbox = Blobber(spec)(image, out)
    assert blob is out
    assert letterbox == Letterbox.of(*size, spec)
    expected = straightforward(image, spec)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-3 if name == "half" else 2e-5)


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (224, 224), (100, 1000), (30, 40), (1, 3)])
@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_the_middle_of_the_picture_fills_the_input(size, crop):
    """As torchvision's Resize(size / crop) and CenterCrop(size), but for a pixel of rounding."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.stack([255 * x / width, 255 * y / height, 0 * x], axis=-1).astype(np.uint8)
    spec = InputSpec(64, 64, "BGR", (0, 0, 0), (1, 1, 1), resize="crop", crop=crop, interpolation="area")
    blob, box = Blobber(spec)(image)
    shorter = min(size)
    for channel, side in ((0, width), (1, height)):
        seen = shorter * crop / side  # the share of this side that is seen
        edges = 255 * np.array([0.5 - seen / 2, 0.5 + seen / 2])
        plane = blob[0, channel].mean(axis=channel)  # columns of x, rows of y
        slack = 255 * (2 / side + seen / 64) + 1
        assert abs(plane[0] - edges[0]) < slack and abs(plane[-1] - edges[1]) < slack
    centre = np.array([[width / 2 - 1, height / 2 - 1, width / 2 + 1, height / 2 + 1]], np.float32)
    there = box.letterbox(centre)
    np.testing.assert_allclose((there[:, :2] + there[:, 2:]) / 2, 32, atol=1.5 * 64 / shorter + 0.5)


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([1, 8, 32, 64]),
)
def test_a_free_size_is_the_least_multiple_of_the_stride_that_holds_the_picture(
    height, width, rows, columns, stride
):
    whole = InputSpec(rows * stride, columns * stride, stride=stride)
    fitted = whole.for_picture(height, width)
    there, here = Letterbox.of(height, width, whole), Letterbox.of(height, width, fitted)
    assert (here.height, here.width) == (there.height, there.width)  # the same scale
    for side, room, most in (
        (here.height, fitted.height, whole.height),
        (here.width, fitted.width, whole.width),
    ):
        assert side <= room <= most and room % stride == 0 and room - side <= stride
    assert whole.for_picture(rows * stride, columns * stride).blob_shape == whole.blob_shape


def test_a_fixed_size_and_a_stretched_picture_stay():
    assert YOLO.for_picture(10, 1000) is YOLO
    stretched = InputSpec(96, 128, resize="stretch", stride=32)
    assert stretched.for_picture(10, 1000) is stretched


def test_blob_is_what_opencv_makes_of_a_picture_that_fits():
    image = noise(96, 128)
    for spec in (YOLO, YOLOX):
        expected = cv2.dnn.blobFromImage(image, 1 / spec.std[0], swapRB=spec.color == "RGB")
        np.testing.assert_allclose(Blobber(spec)(image)[0], expected, rtol=0, atol=1e-5)


def test_half_blob_is_the_nearest_float16_for_every_pixel_value():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    spec = InputSpec(16, 16, mean=(1, 2, 3), std=(3, 5, 7), dtype=np.dtype(np.float16))
    assert np.array_equal(Blobber(spec)(image)[0], straightforward(image, spec).astype(np.float16))


def test_one_blobber_takes_pictures_of_any_size_in_any_order():
    blobber, out = Blobber(NANODET), np.empty(NANODET.blob_shape, np.float32)
    for seed, size in enumerate([(300, 100), (100, 300), (96, 96), (1, 1), (300, 100)]):
        image = noise(*size, seed)
        before = image.copy()
        blobber(image, out)
        np.testing.assert_allclose(out, straightforward(image, NANODET), rtol=0, atol=2e-5)
        assert np.array_equal(image, before)


def test_blob_of_a_view_and_into_a_slice_of_a_batch():
    image = noise(200, 300)[::2, ::-1]
    batch = np.full((3, *YOLO.blob_shape[1:]), -7, np.float32)
    blob, _ = Blobber(YOLO)(image, batch[1:2])
    assert np.shares_memory(blob, batch)
    np.testing.assert_allclose(batch[1:2], straightforward(image, YOLO), rtol=0, atol=1e-6)
    assert (batch[[0, 2]] == -7).all()


def test_a_warm_blobber_allocates_no_large_array(monkeypatch):
    import tracemalloc

    spec = InputSpec(416, 416)
    blobber, image, out = Blobber(spec), noise(540, 960), np.empty(spec.blob_shape, np.float32)
    blobber(image, out)
    tracemalloc.start()
    try:
        blobber(image, out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000  # numpy and OpenCV report their arrays to tracemalloc; the blob has 2 MB


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)],
    ids=["grey", "bgra", "float"],
)
def test_other_pictures_are_refused(image):
    with pytest.raises(ValueError, match="expected a BGR image"):
        Blobber(YOLO)(image)


def test_an_empty_picture_is_refused():
    with pytest.raises(ValueError, match="at least 1x1"):
        Blobber(YOLO)(np.zeros((0, 5, 3), np.uint8))


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((1, 3, 128, 96), np.float32),
        np.zeros(YOLO.blob_shape, np.float64),
        np.zeros((1, 96, 128, 3), np.float32).transpose(0, 3, 1, 2),
    ],
    ids=["shape", "dtype", "strided"],
)
def test_other_blobs_are_refused(out):
    with pytest.raises(ValueError, match="expected a contiguous blob"):
        Blobber(YOLO)(noise(10, 10), out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "at least 1x1"),
        ({"color": "GBR"}, "color"),
        ({"resize": "pad"}, "resize"),
        ({"align": "left"}, "align"),
        ({"mean": (1, 2)}, "mean"),
        ({"std": (1, 0, 1)}, "std"),
        ({"std": (1, float("nan"), 1)}, "std"),
        ({"pad": 256}, "pad"),
        ({"dtype": np.dtype(np.float64)}, "dtype"),
    ],
)
def test_specs_that_cannot_be_meant_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        InputSpec(**{"height": 8, "width": 8, **change})


def test_a_spec_is_a_value_whatever_sequences_made_it():
    assert InputSpec(8, 8, mean=[0, 0, 0], std=np.full(3, 255), dtype="float32") == InputSpec(8, 8)
    assert Letterbox.of(20, 30, InputSpec(8, 8)) is Letterbox.of(20, 30, InputSpec(8, 8, mean=[0, 0, 0]))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # height, width, top, left by Ultralytics' LetterBox at 640.
        ((1080, 1920), (360, 640, 140, 0)),
        ((1080, 810), (640, 480, 0, 80)),
        ((427, 640), (427, 640, 106, 0)),
        ((1, 5000), (1, 640, 319, 0)),
        ((5000, 1), (640, 1, 0, 319)),
        ((10, 20), (320, 640, 160, 0)),
    ],
)
def test_known_letterboxes(size, expected):
    box = Letterbox.of(*size, InputSpec(640, 640))
    assert (box.height, box.width, box.top, box.left) == expected


sides = st.integers(1, 5000)
specs = st.builds(
    InputSpec,
    height=st.integers(1, 1280),
    width=st.integers(1, 1280),
    resize=st.sampled_from(["letterbox", "stretch"]),
    align=st.sampled_from(["center", "top-left"]),
)


@given(sides, sides, specs)
def test_the_picture_lies_inside_the_input_and_touches_two_sides_of_it(height, width, spec):
    box = Letterbox.of(height, width, spec)
    assert box.height >= 1 and box.width >= 1
    assert 0 <= box.top <= spec.height - box.height and 0 <= box.left <= spec.width - box.width
    assert box.height == spec.height or box.width == spec.width
    if spec.align == "center":
        assert 0 <= (spec.height - box.height - box.top) - box.top <= 1
        assert 0 <= (spec.width - box.width - box.left) - box.left <= 1
    else:
        assert box.top == box.left == 0
    whole = box.letterbox(np.array([[0, 0, width, height]], np.float32))[0]
    expected = [box.left, box.top, box.left + box.width, box.top + box.height]
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-3)


@given(sides, sides, specs, st.data())
def test_unletterbox_undoes_letterbox(height, width, spec, data):
    box = Letterbox.of(height, width, spec)
    fractions = np.sort(
        np.array(data.draw(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))).reshape(2, 2), axis=0
    ).ravel()
    boxes = (fractions * [width, height, width, height]).astype(np.float32)[None]
    there = box.letterbox(boxes)
    back = box.unletterbox(there)
    assert there.dtype == back.dtype == np.float32
    # A float32 carries 24 bits: of the input's coordinates there, of the picture's on the way back.
    slack = 3e-7 * max(spec.height / box.scale_y, spec.width / box.scale_x) + 1e-6 * max(height, width)
    np.testing.assert_allclose(back, boxes, rtol=0, atol=slack + 1e-6)


@given(sides, sides, specs, st.lists(st.floats(-2000, 4000, width=32), min_size=2, max_size=6))
def test_unletterbox_keeps_order_and_stays_in_the_picture(height, width, spec, edges):
    values = np.sort(np.array(edges, np.float32))
    boxes = np.stack([values[:-1], values[:-1], values[1:], values[1:]], axis=1)
    before = boxes.copy()
    back = Letterbox.of(height, width, spec).unletterbox(boxes)
    assert np.array_equal(boxes, before)
    assert (back >= 0).all() and (back[:, 0::2] <= width).all() and (back[:, 1::2] <= height).all()
    assert (back[:, :2] <= back[:, 2:]).all()
    assert (np.diff(back, axis=0) >= 0).all()


@settings(max_examples=40)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 64), st.integers(1, 64), st.booleans())
def test_any_blob_is_the_straightforward_one(height, width, input_height, input_width, top_left):
    spec = InputSpec(input_height, input_width, align="top-left" if top_left else "center", pad=7)
    image = noise(height, width)
    np.testing.assert_allclose(Blobber(spec)(image)[0], straightforward(image, spec), rtol=0, atol=1e-6)
