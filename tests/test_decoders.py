"""What holds for every family: malformed outputs, strange numbers, other dtypes; one test file each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.decoders import DECODERS
from pipeline.errors import ModelError
from tests.decoding import HW, named, sound_outputs


@pytest.mark.parametrize("name", DECODERS)
def test_batch_axis_dtype_and_empty(name):
    family = DECODERS[name]
    outputs = sound_outputs(name)
    whole = family.decode(outputs, HW, 0.3, {})
    assert len(whole) > 0
    assert whole.xyxy.dtype == whole.scores.dtype == np.float32 and whole.class_id.dtype == np.int32
    bare = family.decode([o[0] if o.shape[0] == 1 and o.ndim > 1 else o for o in outputs], HW, 0.3, {})
    assert np.array_equal(bare.xyxy, whole.xyxy)
    half = family.decode(sound_outputs(name, np.float16), HW, 0.3, {})
    assert half.xyxy.dtype == half.scores.dtype == np.float32
    np.testing.assert_allclose(half.xyxy, whole.xyxy, rtol=2e-3, atol=0.1)
    nothing = family.decode(outputs, HW, 0.99, {})
    assert nothing.xyxy.shape == (0, 4) and len(nothing.scores) == len(nothing.class_id) == 0


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_numbers_that_are_none_spoil_no_other_box(name, bad, threshold):
    whole = len(DECODERS[name].decode(sound_outputs(name), HW, threshold, {}))
    floating = [i for i, o in enumerate(sound_outputs(name)) if np.issubdtype(o.dtype, np.floating)]
    for index in floating:
        outputs = sound_outputs(name)
        outputs[index].flat[outputs[index].size // 2] = bad
        try:
            found = DECODERS[name].decode(outputs, HW, threshold, {})
        except ModelError:
            assert bad == np.inf  # an infinite score is no probability
            continue
        assert np.isfinite(found.xyxy).all() and np.isfinite(found.scores).all()
        assert whole - 1 <= len(found) <= whole


@pytest.mark.parametrize("name", DECODERS)
def test_nothing_and_one_output_too_many_are_named(name):
    for outputs in ([], [*sound_outputs(name), np.zeros((1, 2, 3, 4, 5), np.float32)]):
        with pytest.raises(ModelError, match=rf"{named(name)}: expected .*; got "):
            DECODERS[name].decode(outputs, HW, 0.3, {})


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
    with pytest.raises(ModelError, match=rf"{named(name)}: expected .*; got "):
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
            floating = [array for array in outputs if np.issubdtype(array.dtype, np.floating)]
            array = floating[index % len(floating)]
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
