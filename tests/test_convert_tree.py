"""Trees of classes (YOLO9000): against Darknet itself, against loops; where the file is found; its errors."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline import Detector
from pipeline.commands.convert import convert
from pipeline.convert import Converted, convert_darknet
from pipeline.convert.tree import read_tree
from pipeline.errors import ConfigError, ModelError
from tests.authors import darknet_reference as reference
from tests.authors.darknet_nets import TREE, TREE_NETS

RECORDED = Path(__file__).parent / "authors" / "darknet_tree.npz"
NAMES = [line.split()[0] for line in TREE.splitlines()]
PARENTS = [int(line.split()[1]) for line in TREE.splitlines()]


def write(folder: Path, name: str, tree: str = "n.tree", seed: int = 11) -> tuple[Path, Path]:
    text = TREE_NETS[name].format(tree=tree)
    (folder / "n.cfg").write_text(text)
    (folder / "n.weights").write_bytes(reference.weights_file(reference.tree_weights(text, seed)))
    return folder / "n.cfg", folder / "n.weights"


def converted(folder: Path, name: str, **options: Any) -> Converted:
    (folder / "n.tree").write_text(TREE)
    return convert_darknet(*write(folder, name), **options)


def run(model: bytes, pictures: np.ndarray) -> np.ndarray:
    """What it answers; of a detector [batch, 6, boxes], with the classes as the last row."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    first, *classes = session.run(None, {"images": pictures})
    assert [each.dtype for each in classes] in ([], [np.int64])
    return np.concatenate([first, classes[0][:, None]], axis=1) if classes else first


@pytest.mark.parametrize(("place", "threshold"), list(enumerate([0.02, 0.2, 0.5])))
def test_boxes_and_their_classes_as_darknet_has_them(place: int, threshold: float, tmp_path: Path) -> None:
    """Authors' own code: libdarknet's ``get_network_boxes``; 1e-4 of a score, and of the input for boxes."""
    with np.load(RECORDED) as recorded:
        expected = recorded["region"][place]
    done = converted(tmp_path, "region", tree_threshold=threshold)
    assert done.output_shape == (5, 384) and done.classes == 24
    rows = run(done.model, reference.contrasts((3, 24, 32), 11)[None])[0].T
    np.testing.assert_allclose(rows[:, :4] / [32, 24, 32, 24], expected[:, :4], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rows[:, 4], expected[:, 4], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(rows[:, 5], expected[:, 5])
    assert len(set(expected[:, 5])) >= 8, "a test of few classes tells little"


def test_leaves_as_darknet_has_them(tmp_path: Path) -> None:
    """Authors' own code: libdarknet's forward pass and its ``hierarchy_predictions``."""
    with np.load(RECORDED) as recorded:
        expected = recorded["softmax"]
    got = run(converted(tmp_path, "softmax").model, reference.contrasts((3, 8, 12), 11)[None])[0]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-12)
    assert np.count_nonzero(expected) == 24 - len({parent for parent in PARENTS if parent >= 0})


def raw(name: str, picture: np.ndarray) -> np.ndarray:
    """What comes into the last layer, by the second implementation."""
    text = TREE_NETS[name].format(tree="n.tree").partition(f"[{name}]")[0]
    values = reference.tree_weights(TREE_NETS[name].format(tree="n.tree"), 11)
    return reference.Network(text).run(picture, reference.reader(values))


def children(parent: int) -> list[int]:
    return [kind for kind, above in enumerate(PARENTS) if above == parent]


def absolute(logits: np.ndarray) -> dict[int, float]:
    """The probability of each class, from the roots down."""
    found = {-1: 1.0}

    def below(parent: int) -> None:
        kinds = children(parent)
        for kind, share in zip(kinds, reference.softmax(logits[kinds]) if kinds else [], strict=True):
            found[kind] = found[parent] * share
            below(kind)

    below(-1)
    return found


def deepest(logits: np.ndarray, threshold: float) -> int:
    probabilities, at, product = absolute(logits), -1, 1.0
    while kinds := children(at):
        best = max(kinds, key=lambda kind: probabilities[kind])
        if product * probabilities[best] <= threshold:
            return best if at == -1 else at
        at, product = best, product * probabilities[best]
    return at


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.4, 1.0])
def test_the_walk_down_the_tree_in_plain_loops(threshold: float, tmp_path: Path) -> None:
    """Second implementation, from the paper and the description of Darknet's rule; two pictures at once."""
    pictures = np.stack([reference.contrasts((3, 24, 32), seed) for seed in (3, 4)])
    answers = run(converted(tmp_path, "region", tree_threshold=threshold).model, pictures)
    for picture, answer in zip(pictures, answers, strict=True):
        maps = raw("region", picture).reshape(2, 29, -1)
        expected = [deepest(maps[anchor, 5:, cell], threshold) for anchor in range(2) for cell in range(192)]
        np.testing.assert_array_equal(answer[5], expected)
        np.testing.assert_allclose(answer[4], reference.sigmoid(maps[:, 4]).ravel(), rtol=0, atol=1e-5)
    depths = {sum(1 for _ in ancestors(int(kind))) for kind in answers[:, 5].ravel()}
    assert max(depths) == {0.0: 5, 0.1: 5, 0.4: 3, 1.0: 1}[threshold]


def ancestors(kind: int) -> Any:
    while kind >= 0:
        yield kind
        kind = PARENTS[kind]


def test_leaves_in_plain_loops(tmp_path: Path) -> None:
    """Second implementation."""
    pictures = np.stack([reference.contrasts((3, 8, 12), seed) for seed in (3, 4)])
    answers = run(converted(tmp_path, "softmax").model, pictures)
    for picture, answer in zip(pictures, answers, strict=True):
        found = absolute(raw("softmax", picture).ravel())
        expected = [0 if children(kind) else found[kind] for kind in range(24)]
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-12)
        assert answer.sum() == pytest.approx(1, abs=1e-5)


def test_a_detector_of_a_tree_needs_nothing_else(tmp_path: Path) -> None:
    # As many labels as there are classes are not COCO's by that: the tree has names.
    done = converted(tmp_path, "region", coco=["coco"] * 24)
    (tmp_path / "n.onnx").write_bytes(done.model)
    onnx.checker.check_model(onnx.load_from_string(done.model), full_check=True)
    assert done.labels == () and ast.literal_eval(done.metadata["names"]) == dict(enumerate(NAMES))
    assert done.metadata["framerail.family"] == "yolo9000"
    assert json.loads(done.metadata["framerail.params"]) == {}
    assert json.loads(done.metadata["framerail.card"]) == {"conf_threshold": 0.5, "iou_threshold": 0.45}
    detector = Detector(str(tmp_path / "n.onnx"))
    picture = np.random.RandomState(2).randint(0, 2, (24, 32, 3), np.uint8) * 255
    found = detector.detect(picture)
    rows = run(done.model, np.ascontiguousarray(picture[None, ..., ::-1].transpose(0, 3, 1, 2) / 255, "f4"))[
        0
    ]
    best = rows[:, rows[4].argmax()]
    assert found.confidence.max() == pytest.approx(best[4], abs=1e-5) and (found.confidence > 0.5).all()
    assert found.labels[int(found.confidence.argmax())] == NAMES[int(best[5])]


def test_a_classifier_of_a_tree_needs_nothing_else(tmp_path: Path) -> None:
    named = converted(tmp_path, "softmax", labels=[f"my {name}" for name in NAMES])
    assert named.labels[3] == "my c3" and named.metadata["framerail.family"] == "classifier-unit"
    (tmp_path / "n.onnx").write_bytes(named.model)
    model = Detector(str(tmp_path / "n.onnx")).model
    assert model.family.name == "classifier-unit" and model.labels[3] == "my c3"


def test_the_tree_is_looked_for_where_the_cfg_lies_and_above(tmp_path: Path) -> None:
    (tmp_path / "cfg").mkdir()
    (tmp_path / "data").mkdir()
    files = write(tmp_path / "cfg", "softmax", "data/n.tree")
    with pytest.raises(
        ModelError, match=r"n.cfg line \d+: layer 2 \[softmax\]: .*give it with --tree"
    ) as caught:
        convert_darknet(*files)
    assert str(tmp_path / "data" / "n.tree") in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "data" / "n.tree").write_text(TREE)
    above = convert_darknet(*files)
    assert above.tree is not None and above.tree.path == tmp_path / "data" / "n.tree"
    (tmp_path / "cfg" / "data").mkdir()
    (tmp_path / "cfg" / "data" / "n.tree").write_text(TREE.replace("c0 ", "beside "))
    beside = convert_darknet(*files)
    assert beside.tree is not None and beside.tree.names[0] == "beside"
    (tmp_path / "my.tree").write_text(TREE.replace("c0 ", "given "))
    given = convert_darknet(*files, tree=tmp_path / "my.tree")
    assert given.tree is not None and given.tree.names[0] == "given"
    from_root = convert_darknet(*write(tmp_path / "cfg", "softmax", str(tmp_path / "my.tree")))
    assert from_root.tree is not None and from_root.tree.names[0] == "given"


def test_a_path_from_the_root_is_named_once(tmp_path: Path) -> None:
    missing = tmp_path / "none" / "9k.tree"
    with pytest.raises(ModelError) as caught:
        convert_darknet(*write(tmp_path, "region", str(missing)))
    assert str(caught.value).count(str(missing)) == 1


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("", r"n.tree line 1: expected a class and its parent's number, -1 for none; got ''"),
        ("a -1\n\nb -1\n", "line 2: expected a class and its parent's number"),
        ("a -1\nb\n", "line 2: expected a class .*; got 'b'"),
        ("a -1\nb c\n", "line 2: expected a class .*; got 'b c'"),
        ("a -1\nb 1\n", r"line 2: expected a parent before it, of number -1\.\.0; got 1"),
        ("a 0\n", r"line 1: expected a parent before it, of number -1\.\.-1; got 0"),
        ("a -1\nb -2\n", "line 2: expected a parent before it"),
        ("a -1\nb 0\nc -1\n", "line 3: expected it beside the other children of -1"),
        ("".join(f"c {n - 1}\n" for n in range(65)), "line 65: expected at most 64 levels of classes"),
        ("a -1\nb 0\n", r"expected 24 classes in n.tree, as many as come in; got 2"),
    ],
)
def test_what_is_no_tree_is_named(tree: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "n.tree").write_text(tree)
    for name in TREE_NETS:
        with pytest.raises(ModelError, match=message) as caught:
            convert_darknet(*write(tmp_path, name))
        assert "\n" not in str(caught.value)


def test_trees_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    cfg, weights = write(tmp_path, "softmax")
    (tmp_path / "n.tree").write_text(TREE)
    text = cfg.read_text()
    cfg.write_text(text + "[softmax]\n")
    with pytest.raises(ModelError, match="a tree of classes before the last layer is not supported"):
        convert_darknet(cfg, weights)
    cfg.write_text(text + "[softmax]\ntree=other.tree\n")
    with pytest.raises(ModelError, match=r"a tree of its own, where layer 2 .* has n.tree, is not supported"):
        convert_darknet(cfg, weights)
    cfg.write_text(text.replace("stride=2", "stride=2\ntree=n.tree"))
    with pytest.raises(ModelError, match=r"layer 0 \[convolutional\]: a tree of classes .* is not supported"):
        convert_darknet(cfg, weights)
    cfg.write_text(text.replace("tree=", "# "))
    with pytest.raises(ConfigError, match=r"--tree: n.cfg has no layer with tree=, so that it needs none"):
        convert_darknet(cfg, weights, tree=tmp_path / "n.tree")
    cfg.write_text(text)
    with pytest.raises(ModelError, match=r"cannot read tree .*: expected a file"):
        convert_darknet(cfg, weights, tree=tmp_path)
    with pytest.raises(ConfigError, match=r"--tree-threshold: expected a number in 0\.\.1; got 2"):
        convert_darknet(cfg, weights, tree_threshold=2)


def test_a_tree_in_one_of_two_heads_is_refused(tmp_path: Path) -> None:
    cfg, weights = write(tmp_path, "region")
    (tmp_path / "n.tree").write_text(TREE)
    more = "[route]\nlayers=-2\n[region]\nanchors=1,1,2,2\nclasses=24\nnum=2\n"
    cfg.write_text(cfg.read_text() + more)
    with pytest.raises(ModelError, match="a tree of classes in some of the heads is not supported"):
        convert_darknet(cfg, weights)
    cfg.write_text(cfg.read_text() + "tree=n.tree\n")
    assert convert_darknet(cfg, weights).output_shape == (5, 768)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-2, 8)), max_size=12))
def test_any_lines_are_a_tree_or_one_error(tmp_path_factory: Any, lines: list[tuple[str, int]]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tree"
    path.write_text("".join(f"{name} {parent}\n" for name, parent in lines))
    try:
        tree = read_tree(path)
    except ModelError:
        return
    assert tree.parent.tolist() == [parent for _, parent in lines] and tree.size.sum() == len(lines)
    for group, (offset, size) in enumerate(zip(tree.offset, tree.size, strict=True)):
        (parent,) = set(tree.parent[offset : offset + size].tolist())
        assert parent == -1 if group == 0 else tree.child[parent] == group
    assert sorted(np.concatenate(tree.levels)) == list(range(len(lines)))


def test_what_the_command_says_of_a_tree_and_spares(tmp_path: Path) -> None:
    console = Console(record=True, width=400, file=io.StringIO())
    (tmp_path / "n.tree").write_text(TREE)
    cfg, weights = map(str, write(tmp_path, "region"))
    convert(cfg, weights, str(tmp_path / "n.onnx"), console, tree_threshold=0.25)
    assert (
        "24 classes, named as in n.tree (give --labels FILE), in a tree of 5 levels, of each box the deepest "
        "over 0.25; 3 layers"
    ) in console.export_text()
    (tmp_path / "n.tree").rename(tmp_path / "t.onnx")
    with pytest.raises(ConfigError, match=r"--output: it would overwrite .*t.onnx, which is read"):
        convert(cfg, weights, str(tmp_path / "t.onnx"), console, tree=str(tmp_path / "t.onnx"))
    assert (tmp_path / "t.onnx").read_text() == TREE
    with pytest.raises(ConfigError, match=r"--tree: there is no file none.tree"):
        convert(cfg, weights, str(tmp_path / "n.onnx"), console, tree="none.tree")
