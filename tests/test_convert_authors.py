"""Converted networks against Darknet itself and OpenCV's importer, as tests/authors/darknet.py recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from pipeline.convert import convert_darknet
from tests.authors import darknet_reference as reference
from tests.authors.darknet_nets import KNOWN, NETS

RECORDED = Path(__file__).parent / "authors" / "darknet.npz"
CASES = [(name, program) for name, programs in KNOWN.items() for program in programs]
# OpenCV gives a lower score of a [yolo] as 0; behind a [region] it does NMS of its own.
HIDDEN = {"darknet": 0.0, "opencv": 0.2}


def matched(rows: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """``rows`` in the order of ``expected``: each goes to the one that it is nearest to, in what is shown."""
    apart = np.square(rows[None] - expected[:, None])
    apart[:, :, 4:] *= (expected[:, 4:] > 0)[:, None]
    nearest = apart.sum(axis=2).argmin(axis=1)
    assert sorted(nearest) == list(range(len(rows)))
    return rows[nearest]


@pytest.mark.assets
@pytest.mark.parametrize("program", ["darknet", "opencv"])
def test_real_weights_give_the_same_numbers(assets: Path, program: str) -> None:
    """Authors' own code, with the weights of Yolo-Fastest; 1e-4 of a score, and of the input for boxes."""
    with np.load(RECORDED) as recorded:
        expected = recorded[f"yolo-fastest/{program}"]
    files = (assets / "models" / f"yolo-fastest-1.1.{suffix}" for suffix in ("cfg", "weights"))
    session = onnxruntime.InferenceSession(convert_darknet(*files).model, providers=["CPUExecutionProvider"])
    got = session.run(None, {"images": reference.blocks(320)[None]})[0][0].T
    boxes = got[:, :4] / 320
    nearest = np.abs(boxes[None] - expected[:, None, :4]).sum(axis=2).argmin(axis=1)
    assert len(set(nearest)) == len(expected) == 150
    np.testing.assert_allclose(boxes[nearest], expected[:, :4], rtol=0, atol=1e-4)
    # This picture has no score that OpenCV would show.
    shown = expected[:, 4] > 0
    assert shown.all() == (program == "darknet")
    scores = got[nearest, 4 + expected[:, 5].astype(int)]
    np.testing.assert_allclose(scores[shown], expected[shown, 4], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "program"), CASES)
def test_the_same_numbers_as_the_authors_own_program(name: str, program: str, tmp_path: Path) -> None:
    """Authors' own code: pjreddie's Darknet (Debian's libdarknet.so), and OpenCV 4's readNetFromDarknet."""
    with np.load(RECORDED) as recorded:
        expected = recorded[f"{name}/{program}"]
    (tmp_path / "n.cfg").write_text(NETS[name])
    values = reference.random_weights(NETS[name], 11)
    (tmp_path / "n.weights").write_bytes(reference.weights_file(values))
    model = convert_darknet(tmp_path / "n.cfg", tmp_path / "n.weights")
    session = onnxruntime.InferenceSession(model.model, providers=["CPUExecutionProvider"])
    shape = (3, *model.input_hw)
    picture = np.random.RandomState(11).uniform(0, 1, shape).astype(np.float32)
    got = session.run(None, {"images": picture[None]})[0][0]
    if model.task == "classify":
        np.testing.assert_allclose(np.log(got), np.log(expected), rtol=0, atol=1e-4)
        return
    rows = got.T.copy()
    rows[:, :4] /= np.array([shape[2], shape[1]] * 2)
    assert rows.shape == expected.shape
    expected[:, 4:] = np.clip(expected[:, 4:], 0, 1)
    rows = matched(rows, expected)
    np.testing.assert_allclose(rows[:, :4], expected[:, :4], rtol=1e-4, atol=1e-4)
    shown = expected[:, 4:] > 0
    assert shown.any()
    np.testing.assert_allclose(rows[:, 4:][shown], expected[:, 4:][shown], rtol=0, atol=1e-4)
    if (name, program) != ("v2", "opencv"):
        assert np.all(rows[:, 4:][~shown] <= HIDDEN[program] + 1e-4)
