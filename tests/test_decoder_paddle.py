"""Paddle exports with NMS against a second implementation of PaddleDetection's documented contract.

The authors' package (paddlepaddle with paddledet) is no dependency of the tests: what is compared
is a loop over the description of its outputs.
"""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders import DECODERS, TensorInfo, identify
from pipeline.decoders.family import View
from pipeline.decoders.paddle import FAMILY, decode, recognise
from pipeline.errors import ModelError
from pipeline.runtime.model import open_model
from tests.constant_models import constant_model
from tests.decoding import HW, assert_same, image, random


def sound_outputs():
    rows = [[0, 0.6, 10, 10, 40, 30], [15, 0.5, 20, 20, 60, 50], [2, 0.4, 30, 5, 80, 60]]
    return [np.array(rows, np.float32), np.array([3], np.int32)]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("count", [60, 25, 0])
def test_against_the_contract(swapped, count):
    """A second implementation: class, score and box of each row, -1 where there is none."""
    corner = random(1, 60, 2) * 40
    labels = np.random.default_rng(2).integers(-1, 5, 60)
    rows = np.column_stack([labels, random(3, 60), corner, corner + random(4, 60, 2) * 20]).astype(np.float32)
    outputs = [rows, np.array([count], np.int32)]
    found = decode(outputs[::-1] if swapped else outputs, HW, 0.4, {"classes": 5})
    expected = [(row[2:], row[1], int(row[0])) for row in rows[:count] if row[0] >= 0 and row[1] > 0.4]
    if count:
        assert_same(found, expected)
    else:
        assert len(found) == 0
    assert FAMILY.nms is False


def test_what_cannot_be_is_named():
    rows, count = sound_outputs()
    for outputs in (
        [rows, count + 1],
        [rows, count - 4],
        [rows[:, :5], count],
        [rows, rows],
        [rows.astype(int), count],
    ):
        with pytest.raises(ModelError, match=r"paddle: expected detections .*; got "):
            decode(outputs, HW, 0.3, {})
    with pytest.raises(ModelError, match=r"paddle: expected classes .* from 0 to 2; got 15"):
        decode([rows, count], HW, 0.3, {"classes": 3})
    assert len(decode([np.zeros((0, 6), np.float32), np.zeros(1, np.int32)], HW, 0.3, {})) == 0


def declared(names=("multiclass_nms3_0.tmp_0", "multiclass_nms3_0.tmp_2"), dtype="int32"):
    return TensorInfo(names[0], (None, 6), "float32"), TensorInfo(names[1], (None,), dtype)


def test_whose_class_numbers_they_are_is_told_by_the_trial_run():
    for labels, known, classes in (([0, 15], None, 80), ([3, 4], None, 1000), ([3, 4], 9, 9)):
        rows = sound_outputs()[0][:2].copy()
        rows[:, 0] = labels
        match = recognise(View(declared(), HW, known, arrays=(rows, np.array([2], np.int32))))
        assert match is not None and match.num_classes == match.params["classes"] == classes
        assert match.batched is False and match.certain


def test_outputs_of_others_are_not_claimed():
    rows, count = sound_outputs()
    assert recognise(View(declared(), HW, arrays=(rows, count))) is not None
    assert recognise(View(declared()[:1], HW)) is None
    assert recognise(View(declared(dtype="float32"), HW)) is None
    batched = (TensorInfo("output0", (1, 300, 6), "float32"), declared()[1])
    assert recognise(View(batched, HW)) is None
    # end-to-end YOLO rows: x0, y0, x1, y1, score, class
    yolo = rows[:, [2, 3, 4, 5, 1, 0]] + 0.25
    assert recognise(View(declared(), HW, arrays=(yolo, count))) is None
    assert recognise(View(declared(), HW, arrays=(rows, np.array([9], np.int32)))) is None
    # scores where classes should be
    assert recognise(View(declared(), HW, arrays=(rows[:, [1, 1, 2, 3, 4, 5]], count))) is None


def test_a_card_tells_pp_yoloe_from_pp_yoloe_plus(tmp_path):
    """Nothing in the outputs tells how the picture is normalised: it is never guessed in silence."""
    answer = dict(zip(("boxes.tmp_0", "num.tmp_2"), sound_outputs(), strict=True))
    open_sizes = {"boxes.tmp_0": ("n", 6), "num.tmp_2": ("m",)}
    path = constant_model(tmp_path / "pp.onnx", answer, declared=open_sizes, beside={"scale_factor": (1, 2)})
    found = open_model(str(path)).found
    assert found is not None
    assert "does not tell how it is fed (paddle or paddle-plus); taken: paddle;" in found.doubt
    card = path.with_suffix(".toml")
    for family, std in (("paddle", (58.395, 57.12, 57.375)), ("paddle-plus", (255.0,) * 3)):
        card.write_text(f'name = "pp"\nfile = "pp.onnx"\nfamily = "{family}"\n', encoding="utf-8")
        model = open_model(str(path))
        assert model.family is DECODERS[family] and model.spec.std == std and model.spec.resize == "stretch"
        assert len(model.decode(sound_outputs(), 0.3)) == 3


def test_a_file_is_identified_before_it_runs():
    inputs = [image(), TensorInfo("scale_factor", (1, 2), "float32")]
    assert identify(inputs, declared(), {}, family="paddle").num_classes == 80
