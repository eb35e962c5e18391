"""Every layer type and option against a second implementation, which is written apart and in plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from pipeline.convert import Converted, convert_darknet
from pipeline.convert.network import LAYERS
from tests.authors import darknet_reference as reference
from tests.authors.darknet_nets import NETS


def converted(folder: Path, name: str, version: tuple[int, int, int] = (0, 2, 5)) -> Converted:
    (folder / "n.cfg").write_text(NETS[name])
    values = reference.random_weights(NETS[name], 7)
    (folder / "n.weights").write_bytes(reference.weights_file(values, version))
    return convert_darknet(folder / "n.cfg", folder / "n.weights")


def run(model: bytes, pictures: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": pictures.astype(np.float32)})[0]


def pictures(name: str, count: int = 2) -> np.ndarray:
    shape = reference.Network(NETS[name]).input_shape
    return np.random.RandomState(3).uniform(0, 1, (count, *shape)).astype(np.float32)


def rows_of(heads: list[np.ndarray], input_shape: tuple[int, int, int]) -> np.ndarray:
    """Rows of all heads as the converted model gives them: [4 + classes, boxes], input pixels."""
    _, height, width = input_shape
    rows = np.concatenate(heads)
    boxes = rows[:, :4] * np.array([width, height, width, height])
    return np.concatenate([boxes, rows[:, 5:]], axis=1).T


@pytest.mark.parametrize("name", NETS)
def test_every_layer_as_the_loops_compute_it(name: str, tmp_path: Path) -> None:
    """Second implementation: tests/authors/darknet_reference.py."""
    result = converted(tmp_path, name)
    blobs = pictures(name)
    got = run(result.model, blobs)
    assert got.shape == (2, *result.output_shape)
    values = reference.random_weights(NETS[name], 7)
    for picture, answer in zip(blobs, got, strict=True):
        network = reference.Network(NETS[name])
        expected = network.run(picture, reference.reader(values))
        if network.heads:
            expected = rows_of(network.heads, network.input_shape)
            expected[4:] = np.clip(expected[4:], 0, 1)
            np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-4)
            assert np.ptp(expected[4:]) > 0.05, "a test of constant scores tells nothing"
        else:
            # Logarithms, or a wrong layer would hide behind small probabilities.
            np.testing.assert_allclose(np.log(answer), np.log(expected), rtol=1e-4, atol=1e-4)
            assert np.ptp(np.log(expected)) > 0.05, "a test of constant scores tells nothing"
    assert np.abs(got[0] - got[1]).max() > 1e-3, "it answers every picture in the same way"


def test_the_small_networks_have_every_layer_type() -> None:
    seen = {kind for text in NETS.values() for kind, _ in reference.parse(text)} - {"net"}
    assert seen == set(LAYERS)


@pytest.mark.parametrize("name", ["v3", "connected"])
def test_the_model_is_valid_onnx_and_its_bytes_are_always_the_same(name: str, tmp_path: Path) -> None:
    result = converted(tmp_path, name)
    onnx.checker.check_model(onnx.load_from_string(result.model), full_check=True)
    assert converted(tmp_path, name).model == result.model


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 0), (1, 0, 0), (0, 2, 5)])
def test_versions_of_the_weights_file(version: tuple[int, int, int], tmp_path: Path) -> None:
    """The count of pictures has 32 bits before version 0.2, and 64 from then on."""
    blobs = pictures("classifier")
    first = run(converted(tmp_path, "classifier").model, blobs)
    np.testing.assert_array_equal(run(converted(tmp_path, "classifier", version).model, blobs), first)


@pytest.mark.parametrize("version", [(1001, 0, 0), (0, 1001, 0)])
def test_old_files_store_connected_layers_transposed(version: tuple[int, int, int], tmp_path: Path) -> None:
    """Second implementation, told to read [inputs, outputs]."""
    blobs = pictures("connected", 1)
    got = run(converted(tmp_path, "connected", version).model, blobs)[0]
    values = reference.random_weights(NETS["connected"], 7)
    expected = reference.Network(NETS["connected"]).run(blobs[0], reference.reader(values), transposed=True)
    np.testing.assert_allclose(np.log(got), np.log(expected), rtol=1e-4, atol=1e-4)
