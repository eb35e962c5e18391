"""A graph that was exported for one size answers other sizes as one that was exported for those."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cheap_model import write_cheap_model
from pipeline import Detector, Pipeline
from pipeline.commands.tune import Options, _steps
from pipeline.decoders import TensorInfo
from pipeline.errors import ModelError
from pipeline.runtime.anysize import any_size
from pipeline.runtime.catalog import locate
from pipeline.runtime.model import open_model
from pipeline.runtime.trial import photograph
from tests.test_cli import assert_one_line, framerail

STRIDES = (8, 16, 32)


class Graph:
    """As an exporter writes it down: every number that follows from the size is one."""

    def __init__(self, size: tuple[int, int], shift: float = 0.0) -> None:
        self.size, self.shift = size, shift
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def grid(self, stride: int) -> tuple[int, int]:
        height, width = (-(-side // stride) for side in self.size)
        return height, width

    def do(self, operator: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        output = f"{operator}{len(self.nodes)}"
        names = []
        for place, each in enumerate(inputs):
            names.append(each if isinstance(each, str) else f"{output}.{place}")
            if not isinstance(each, str):
                self.constants[names[-1]] = each
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **attributes))
        return output

    def reshaped(self, name: str, *target: int) -> str:
        return self.do("Reshape", name, np.array(target, np.int64))

    def features(self) -> list[str]:
        """[1, 4, rows, columns] of each stride: means of the picture's colours, mixed."""
        mixed = self.do(
            "Conv",
            "images",
            np.ones((4, 3, 1, 1), np.float32) * np.arange(1, 5)[:, None, None, None].astype(np.float32),
        )
        return [
            self.do("AveragePool", mixed, kernel_shape=[stride] * 2, strides=[stride] * 2, ceil_mode=1)
            for stride in STRIDES
        ]

    def anchors(self, count: int, inner: bool) -> np.ndarray:
        """[2, cells], x and y: of each grid row by row, ``count`` for each cell."""
        levels = []
        for stride in STRIDES:
            rows, columns = self.grid(stride)
            y, x = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij")
            points = np.stack([x, y]) * stride
            each = np.stack([points] * count, axis=-1 if inner else 1)
            levels.append(each.reshape(2, -1))
        return np.concatenate(levels, axis=1).astype(np.float32) + np.float32(self.shift)

    def write(self, path: Path, **outputs: str) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *self.size])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs.values()],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        return path


def flat(graph: Graph, anchors: int = 1, inner: bool = False) -> str:
    """YOLOv8's head: cells of all grids one after the other, against a table of points and of strides."""
    levels = []
    for name, stride in zip(graph.features(), STRIDES, strict=True):
        rows, columns = graph.grid(stride)
        if anchors > 1 and inner:
            name = graph.do(
                "Concat", *[graph.do("Unsqueeze", name, np.array([4], np.int64))] * anchors, axis=4
            )
        elif anchors > 1:
            name = graph.do(
                "Concat", *[graph.do("Unsqueeze", name, np.array([2], np.int64))] * anchors, axis=2
            )
        levels.append(graph.reshaped(name, 1, 4, anchors * rows * columns))
    cells = sum(anchors * rows * columns for rows, columns in map(graph.grid, STRIDES))
    table = graph.reshaped(graph.do("Concat", *levels, axis=2), 1, 2, 2, cells)
    table = graph.do("Softmax", graph.do("Transpose", table, perm=[0, 2, 1, 3]), axis=1)
    table = graph.reshaped(table, 1, 4, cells)
    points = graph.anchors(anchors, inner)
    first = graph.do("Slice", table, *(np.array([n], np.int64) for n in (0, 2, 1)))
    second = graph.do("Slice", table, *(np.array([n], np.int64) for n in (2, 4, 1)))
    near = graph.do("Sub", points[None], first)
    strides = np.concatenate([np.full(anchors * np.prod(graph.grid(s)), s, np.float32) for s in STRIDES])
    return graph.do(
        "Mul", graph.do("Concat", near, graph.do("Add", second, points[None]), axis=1), strides[None]
    )


def gridded(graph: Graph) -> str:
    """YOLOv5's head: each grid by itself, [1, anchors, rows, columns, 2], against its own points."""
    heads = []
    for name, stride in zip(graph.features(), STRIDES, strict=True):
        rows, columns = graph.grid(stride)
        boxes = graph.do("Transpose", graph.reshaped(name, 1, 2, 2, rows, columns), perm=[0, 1, 3, 4, 2])
        y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        points = np.broadcast_to(np.stack([x, y], axis=-1), (1, 2, rows, columns, 2)).astype(np.float32)
        placed = graph.do("Mul", graph.do("Add", boxes, points.copy()), np.float32(stride).reshape(1))
        heads.append(graph.reshaped(placed, 1, 2 * rows * columns, 2))
    return graph.do("Concat", *heads, axis=1)


def attentive(graph: Graph) -> str:
    """Attention over the coarsest grid, and back to rows and columns; then upsampled to the next."""
    fine, coarse = graph.features()[1:]
    rows, columns = graph.grid(32)
    tokens = graph.reshaped(coarse, 1, 2, 2, rows * columns)
    scores = graph.do("MatMul", graph.do("Transpose", tokens, perm=[0, 1, 3, 2]), tokens)
    seen = graph.do("MatMul", tokens, graph.do("Softmax", scores, axis=-1))
    coarse = graph.reshaped(seen, 1, 4, rows, columns)
    sizes = np.array([1, 4, *graph.grid(16)], np.int64)
    grown = graph.do(
        "Resize",
        coarse,
        "",
        "",
        sizes,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return graph.do("Add", grown, fine)


HEADS = {
    "flat": flat,
    "three boxes a cell, by plane": lambda graph: flat(graph, 3),
    "three boxes a cell, together": lambda graph: flat(graph, 3, inner=True),
    "gridded": gridded,
    "attentive": attentive,
}
SIZES = [(384, 640), (640, 384), (224, 640), (640, 640), (352, 352)]


@pytest.mark.parametrize("head", HEADS)
def test_a_freed_graph_is_the_one_that_was_exported_for_the_size(tmp_path: Path, head: str) -> None:
    def exported(size: tuple[int, int]) -> Path:
        graph = Graph(size)
        return graph.write(tmp_path / f"{size[0]}x{size[1]}.onnx", output=HEADS[head](graph))

    whole = exported((640, 640))
    free = ort.InferenceSession(
        any_size(whole, TensorInfo("images", (1, 3, 640, 640), "float32"), (640, 640), "NCHW")
    )
    draw = np.random.default_rng(1)
    for size in SIZES:
        picture = draw.random((1, 3, *size), np.float32)
        (expected,) = ort.InferenceSession(exported(size)).run(None, {"images": picture})
        (answer,) = free.run(None, {"images": picture})
        assert answer.shape == expected.shape
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-4)


def test_classes_that_are_as_many_as_there_are_rows(tmp_path: Path) -> None:
    """80 of both: which of the two varies is told by what fits."""

    def exported(size: tuple[int, int]) -> Path:
        graph = Graph(size)
        rows, columns = graph.grid(8)
        wide = graph.do("Conv", graph.features()[0], np.ones((80, 4, 1, 1), np.float32))
        plane = graph.reshaped(wide, 1, 80, -1)
        again = graph.reshaped(plane, 1, 80, rows, columns)
        biased = graph.do("Add", again, np.arange(80, dtype=np.float32)[:, None, None])
        return graph.write(tmp_path / f"{size[0]}.onnx", output=graph.do("Identity", biased))

    data = any_size(
        exported((640, 640)), TensorInfo("images", (1, 3, 640, 640), "float32"), (640, 640), "NCHW"
    )
    picture = np.random.default_rng(1).random((1, 3, 384, 640), np.float32)
    (expected,) = ort.InferenceSession(exported((384, 640))).run(None, {"images": picture})
    (answer,) = ort.InferenceSession(data).run(None, {"images": picture})
    np.testing.assert_allclose(answer, expected, rtol=1e-5)


def refused(path: Path, size: tuple[int, int] = (640, 640)) -> str:
    with pytest.raises(ModelError, match=r"cannot be fed rectangles: .*; leave out rect \(--rect\)") as found:
        any_size(path, TensorInfo("images", (1, 3, *size), "float32"), size, "NCHW")
    assert "\n" not in str(found.value)
    return str(found.value)


def test_a_table_that_is_no_even_grid_is_refused(tmp_path: Path) -> None:
    graph = Graph((640, 640))
    (feature, *_) = graph.features()
    learnt = np.random.default_rng(1).random((1, 4, *graph.grid(8)), np.float32)  # as positions are in DETR
    path = graph.write(tmp_path / "m.onnx", output=graph.do("Add", feature, learnt))
    assert "has a constant of [1, 4, 80, 80], no even grid" in refused(path)


def test_a_graph_whose_sizes_are_hidden_is_refused(tmp_path: Path) -> None:
    graph = Graph((640, 640))
    (feature, *_) = graph.features()
    grown = graph.do("Expand", graph.do("GlobalAveragePool", feature), np.array([1, 4, 80, 80], np.int64))
    path = graph.write(tmp_path / "m.onnx", output=graph.do("Add", grown, feature))
    assert "does not run on 160x128" in refused(path)
    assert "is no larger than 16x16" in refused(write_cheap_model(tmp_path / "c.onnx", size=32), (16, 16))


@pytest.fixture(scope="module")
def fixed_nanodet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model, which takes any size, for one: 416x416."""
    model = onnx.load(locate("nanodet-g").path)
    (image,) = model.graph.input
    dims = image.type.tensor_type.shape.dim
    for dim, value in zip(dims, (1, 3, 416, 416), strict=True):
        dim.ClearField("dim_param")
        dim.dim_value = value
    del model.graph.value_info[:]
    path = tmp_path_factory.mktemp("fixed") / "fixed.onnx"
    folded = path.with_name("folded.onnx")
    onnx.save(model, path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    card = locate("nanodet-g").path.with_suffix(".toml")
    if card.exists():
        folded.with_suffix(".toml").write_bytes(card.read_bytes())
    return folded


def test_a_real_model_is_fed_rectangles_and_sees_the_same(fixed_nanodet: Path, caplog) -> None:
    free = Detector("nanodet-g")
    with caplog.at_level(logging.INFO):
        freed = Detector(str(fixed_nanodet), rect=True)
    assert "is fed rectangles (rect): its file fixes 416x416" in caplog.text
    assert open_model(str(fixed_nanodet)).spec.stride is None
    assert freed.model.spec.stride == free.model.spec.stride == 32
    was, now = free.detect(photograph()), freed.detect(photograph())
    assert now.labels == was.labels and len(now) > 1
    np.testing.assert_allclose(now.xyxy, was.xyxy, atol=0.01)
    np.testing.assert_allclose(now.confidence, was.confidence, atol=1e-4)


def test_smaller_inputs_of_a_model_of_one_size(fixed_nanodet: Path) -> None:
    freed = open_model(str(fixed_nanodet), "cpu", rect=True, input_size=(320, 320))
    assert (freed.spec.height, freed.spec.width, freed.spec.stride) == (320, 320, 32)
    with pytest.raises(ModelError, match=r"asked for input 640x320 .* it takes 416x416 at most"):
        open_model(str(fixed_nanodet), "cpu", rect=True, input_size=(320, 640))
    # One that takes any size already is fed rectangles as it was.
    assert open_model("nanodet-g", "cpu", rect=True).spec == open_model("nanodet-g", "cpu").spec


def test_a_model_that_answers_otherwise_then_is_refused(tmp_path: Path) -> None:
    constant = str(write_cheap_model(tmp_path / "m.onnx", size=64))  # as many cells for every picture
    with pytest.raises(ModelError, match="cannot be fed rectangles: a fixed size: declared free, but"):
        open_model(constant, "cpu", rect=True)


def test_streams_of_several_shapes_go_through_a_freed_model(fixed_nanodet: Path, tmp_path: Path) -> None:
    sources = ["synthetic:640x360?frames=5", "synthetic:360x640?frames=5"]
    with Pipeline(sources, model=str(fixed_nanodet), rect=True, fuse=True, provider="cpu") as line:
        assert {result.stream: result.frame.seq for result in line} == dict.fromkeys(line.sources, 4)
        assert line.model is not None
        specs = [line.model.spec.for_picture(*size) for size in ((360, 640), (640, 360))]
    assert [spec.blob_shape for spec in specs] == [(1, 256, 416, 3), (1, 416, 256, 3)]


def test_the_command_feeds_rectangles_and_says_so(fixed_nanodet: Path, tmp_path: Path) -> None:
    run = ["run", "sample:", "--model", str(fixed_nanodet), "--provider", "cpu", "--max-frames", "3"]
    done = framerail(*run, "--rect", "--summary", str(tmp_path / "s.json"))
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "s.json").read_text())["settings"]
    assert (settings["rect"], settings["input"], settings["fed"]) == (True, [416, 416], [[416, 256]])
    stretched = fixed_nanodet.with_name("stretched.onnx")
    stretched.write_bytes(fixed_nanodet.read_bytes())
    stretched.with_suffix(".toml").write_text(
        'name = "stretched"\nfile = "stretched.onnx"\nfamily = "nanodet"\n[input]\nresize = "stretch"\n'
    )
    run[run.index("--model") + 1] = str(stretched)
    assert_one_line(
        framerail(*run, "--rect"), 3, "its pictures are not letterboxed (stretch); leave out rect"
    )


def test_tune_tries_it_where_the_file_fixes_its_size(fixed_nanodet: Path) -> None:
    def tried(model: str, **given: Any) -> list[Any]:
        options = Options(source="synthetic:64x48", run={"provider": "cpu", "infer_workers": 1, **given})
        copied: Any = lambda _precision: type("Copy", (), {"path": None})()  # noqa: E731
        found = _steps(options, open_model(model, "cpu"), copied, lambda _: None)
        return [(list(step.settings), step.changes_answers) for step in found if step.name == "rectangles"]

    assert tried(str(fixed_nanodet)) == [([{"rect": True}], True)]
    assert tried(str(fixed_nanodet), rect=False) == tried("nanodet-g") == []
