"""Real models as other exporters would have written them: read rightly, or not without a word.

Each alters the graph of a real model; right is what the unaltered one finds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import Detections, Detector
from pipeline.errors import ModelError
from pipeline.vision.boxes import iou_matrix

pytestmark = pytest.mark.assets


class Graph:
    """A model of the assets whose outputs become others; without metadata, which would tell."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        del self.model.metadata_props[:]
        self.graph = self.model.graph
        self.outputs = [output.name for output in self.graph.output]
        self._count = 0

    def constant(self, value: object, dtype: type = np.float32) -> str:
        self._count += 1
        name = f"altered_constant{self._count}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        self._count += 1
        name = f"altered{self._count}"
        self.graph.node.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def columns(self, table: str, *wanted: int, axis: int = -1) -> str:
        return self.add("Gather", table, self.constant(wanted, np.int64), axis=axis)

    def give(self, *names: str, types: tuple[int, ...] = ()) -> None:
        """Make these the outputs, named by nothing but what they are."""
        del self.graph.output[:]
        for index, name in enumerate(names):
            kind = types[index] if types else TensorProto.FLOAT
            self.graph.output.append(helper.make_tensor_value_info(name, kind, None))

    def feed(self, change: Callable[[str], str]) -> None:
        """Put nodes between the input and the rest; ``change`` gets the input's name."""
        (image,) = [i for i in self.graph.input if len(i.type.tensor_type.shape.dim) == 4]
        old = list(self.graph.node)
        changed = change(image.name)
        for node in old:
            for index, name in enumerate(node.input):
                if name == image.name:
                    node.input[index] = changed
        added = list(self.graph.node)[len(old) :]
        del self.graph.node[:]
        self.graph.node.extend([*added, *old])

    def save(self, path: Path) -> str:
        shaped = onnx.shape_inference.infer_shapes(self.model)
        onnx.save(shaped, path)
        return str(path)


Alter = Callable[[Graph], None]


def scaled_inside(graph: Graph) -> None:
    graph.feed(lambda image: graph.add("Mul", image, graph.constant(1 / 255)))


def turned_and_in_parts(graph: Graph) -> None:
    (table,) = graph.outputs
    scale = np.ones((1, 84, 1), np.float32)
    scale[0, :4] = 1 / 640
    graph.give(graph.add("Transpose", graph.add("Mul", table, graph.constant(scale)), perm=[0, 2, 1]))


def levels_in_one(classes: int) -> Alter:
    def alter(graph: Graph) -> None:
        names = graph.outputs
        few = [graph.columns(name, *range(classes)) for name in names[:3]]
        pairs = [graph.add("Concat", *pair, axis=2) for pair in zip(few, names[3:], strict=True)]
        graph.give(graph.add("Concat", *pairs, axis=1))

    return alter


def left_top_width_height(graph: Graph) -> None:
    (table,) = graph.outputs
    corner, far = graph.columns(table, 0, 1), graph.columns(table, 2, 3)
    rest = graph.columns(table, 4, 5)
    graph.give(graph.add("Concat", corner, graph.add("Sub", far, corner), rest, axis=2))


def columns_apart(graph: Graph) -> None:
    (table,) = graph.outputs
    boxes = graph.columns(table, 0, 1, 2, 3)
    flat = [graph.add("Squeeze", graph.columns(table, at), graph.constant([2], np.int64)) for at in (4, 5)]
    label = graph.add("Cast", flat[1], to=TensorProto.INT64)
    for made, name in ((boxes, "boxes"), (flat[0], "scores"), (label, "labels")):
        graph.graph.node.append(helper.make_node("Identity", [made], [name]))
    graph.give("boxes", "scores", "labels", types=(TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64))


def without_a_batch_axis(graph: Graph) -> None:
    (table,) = graph.outputs
    graph.give(graph.add("Reshape", table, graph.constant([84, 8400], np.int64)))


RIGHT: dict[str, tuple[str, Alter, int]] = {
    "scaled inside": ("yolov8n_640_deq", scaled_inside, 80),
    "turned and in parts": ("yolov8n_640_deq", turned_and_in_parts, 80),
    "no batch axis": ("yolov8n_640_deq", without_a_batch_axis, 80),
    "levels in one output": ("nanodet_g_416", levels_in_one(80), 80),
    "levels in one, two classes": ("nanodet_g_416", levels_in_one(2), 2),
    "left, top, width, height": ("yolo26n_deq", left_top_width_height, 80),
    "columns apart": ("yolo26n_deq", columns_apart, 80),
}


usual = functools.lru_cache(maxsize=1)(Detector)


@functools.cache
def seen_by_the_usual(model: str, picture: str) -> Detections:
    return usual(model).detect(cv2.imread(picture), conf=0.4)


@pytest.mark.parametrize("case", RIGHT)
def test_it_is_read_as_its_author_meant_it(case: str, assets: Path, tmp_path: Path) -> None:
    name, alter, classes = RIGHT[case]
    graph = Graph(assets / "models" / f"{name}.onnx")
    alter(graph)
    altered = Detector(graph.save(tmp_path / "altered.onnx"))
    assert len(altered.labels) == classes
    pictures = [
        assets / "images" / "bus.jpg",
        *sorted((assets / "coco-val128" / "images").glob("*.jpg"))[:4],
    ]
    compared = 0
    for path in pictures:
        found = altered.detect(cv2.imread(str(path)), conf=0.4)
        known = seen_by_the_usual(str(assets / "models" / f"{name}.onnx"), str(path))
        wanted = np.flatnonzero(known.class_id < classes)
        compared += len(wanted)
        assert same(found, known, wanted), f"{path.name}: {found} instead of {known}"
    assert compared >= 4


def same(found: Detections, known: Detections, wanted: np.ndarray) -> bool:
    if len(found) != len(wanted):
        return False
    if not len(wanted):
        return True
    overlap = iou_matrix(known.xyxy[wanted], found.xyxy)
    overlap[known.class_id[wanted][:, None] != found.class_id] = 0
    return bool((overlap.max(axis=1) > 0.9).all())


def only_classes(*wanted: int) -> Alter:
    def alter(graph: Graph) -> None:
        (table,) = graph.outputs
        graph.give(graph.columns(table, *range(4), *(4 + index for index in wanted), axis=1))

    return alter


def only_umbrellas(graph: Graph) -> None:
    (table,) = graph.outputs
    boxes, score, kind = graph.columns(table, 0, 1, 2, 3), graph.columns(table, 4), graph.columns(table, 5)
    wanted = graph.add("Cast", graph.add("Equal", kind, graph.constant([25.0])), to=TensorProto.FLOAT)
    none = graph.add("Mul", kind, graph.constant([0.0]))
    graph.give(graph.add("Concat", boxes, graph.add("Mul", score, wanted), none, axis=2))


def only_heads(graph: Graph) -> None:
    """The upper part of each person: a sound box that overlaps the person little."""
    boxes, scores, labels = (
        name for kind in ("boxes", "scores", "labels") for name in graph.outputs if name == kind
    )
    left, top, right, bottom = (graph.columns(boxes, at) for at in range(4))
    neck = graph.add("Add", top, graph.add("Mul", graph.add("Sub", bottom, top), graph.constant(0.3)))
    head = graph.add("Concat", left, top, right, neck, axis=-1)
    person = graph.add("Cast", graph.add("Equal", labels, graph.constant(0, np.int64)), to=TensorProto.FLOAT)
    del graph.graph.output[:]
    for value, name, kind in (
        (graph.add("Mul", labels, graph.constant(0, np.int64)), "out_labels", TensorProto.INT64),
        (head, "out_boxes", TensorProto.FLOAT),
        (graph.add("Mul", scores, person), "out_scores", TensorProto.FLOAT),
    ):
        graph.graph.node.append(helper.make_node("Identity", [value], [name]))
        graph.graph.output.append(helper.make_tensor_value_info(name, kind, None))


OTHER_THINGS: dict[str, tuple[str, Alter, str]] = {
    "traffic": ("yolov8n_640_deq", only_classes(2, 5, 7, 9, 11), "yolov8"),
    "umbrellas": ("yolo26n_deq", only_umbrellas, "end2end"),
    "heads": ("deimv2_femto", only_heads, "deim"),
}


@pytest.mark.parametrize("case", OTHER_THINGS)
def test_a_model_of_other_things_is_read_and_fed_as_its_family_is(
    case: str, assets: Path, tmp_path: Path
) -> None:
    """What lies on the person or the cat of the photograph by chance changes neither."""
    name, alter, family = OTHER_THINGS[case]
    graph = Graph(assets / "models" / f"{name}.onnx")
    alter(graph)
    model = Detector(graph.save(tmp_path / "altered.onnx")).model
    assert model.family.name == family
    assert (model.spec.color, model.spec.std) == ("RGB", (255.0, 255.0, 255.0))
    assert model.params.get("boxes", "xyxy") == "xyxy"


def blue_first(graph: Graph) -> None:
    graph.feed(lambda image: graph.columns(image, 2, 1, 0, axis=1))


def sure_of_everything(graph: Graph) -> None:
    (table,) = graph.outputs
    boxes, scores = graph.columns(table, *range(4), axis=1), graph.columns(table, *range(4, 84), axis=1)
    graph.give(graph.add("Concat", boxes, graph.add("Sigmoid", scores), axis=1))


def objectness_first(graph: Graph) -> None:
    (table,) = graph.outputs
    boxes, scores = graph.columns(table, *range(4), axis=1), graph.columns(table, *range(4, 84), axis=1)
    best = graph.add("ReduceMax", scores, axes=[1], keepdims=1)
    graph.give(graph.add("Concat", boxes, best, scores, axis=1))


def most_likely_class_alone(graph: Graph) -> None:
    (table,) = graph.outputs
    scores = graph.columns(table, *range(4, 84), axis=1)
    boxes = graph.add("Transpose", graph.columns(table, *range(4), axis=1), perm=[0, 2, 1])
    made = (
        (boxes, "boxes"),
        (graph.add("ReduceMax", scores, axes=[1], keepdims=0), "scores"),
        (graph.add("ArgMax", scores, axis=1, keepdims=0), "labels"),
    )
    for value, name in made:
        graph.graph.node.append(helper.make_node("Identity", [value], [name]))
    graph.give("boxes", "scores", "labels", types=(TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64))


def classes_moved_by_one(graph: Graph) -> None:
    (table,) = graph.outputs
    graph.give(graph.columns(table, *range(4), *(4 + (index - 1) % 80 for index in range(80)), axis=1))


def cat_first(graph: Graph) -> None:
    """Cats alone, under the number that anyone's first class has, and COCO's person."""
    (table,) = graph.outputs
    boxes, score, kind = graph.columns(table, 0, 1, 2, 3), graph.columns(table, 4), graph.columns(table, 5)
    wanted = graph.add("Cast", graph.add("Equal", kind, graph.constant([15.0])), to=TensorProto.FLOAT)
    none = graph.add("Mul", kind, graph.constant([0.0]))
    graph.give(graph.add("Concat", boxes, graph.add("Mul", score, wanted), none, axis=2))


def halves_of_the_range(graph: Graph) -> None:
    half = graph.constant(0.5)
    graph.feed(lambda image: graph.add("Add", graph.add("Mul", image, half), half))


def pixels_of_exchanged_colours(graph: Graph) -> None:
    """NanoDet, trained on BGR, with its mean and deviation in the graph, for uint8 [1, h, w, 3] in RGB."""
    mean, std = (
        graph.constant(np.array(values, np.float32).reshape(1, 3, 1, 1))
        for values in ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
    )

    def change(image: str) -> str:
        floats = graph.add("Transpose", graph.add("Cast", image, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
        exchanged = graph.columns(floats, 2, 1, 0, axis=1)
        return graph.add("Div", graph.add("Sub", exchanged, mean), std)

    graph.feed(change)
    (image,) = graph.graph.input
    pixels = helper.make_tensor_value_info(image.name, TensorProto.UINT8, [1, 416, 416, 3])
    image.CopyFrom(pixels)


def left_right_top_bottom(graph: Graph) -> None:
    (table,) = graph.outputs
    graph.give(graph.columns(table, 0, 2, 1, 3, 4, 5))


NOT_SILENT: dict[str, tuple[str, Alter, str]] = {
    "blue first": ("yolov8n_640_deq", blue_first, 'fed as BGR .* under .input.: color = "BGR"'),
    "pixels of exchanged colours": (
        "nanodet_g_416",
        pixels_of_exchanged_colours,
        'takes the pixels themselves.* does not tell.* under .input.: color = "RGB"',
    ),
    "halves of the range": (
        "yolov8n_640_deq",
        halves_of_the_range,
        r"fed ImageNet's .* \(nearly as well -1..1: 6",
    ),
    "sure of everything": ("yolov8n_640_deq", sure_of_everything, r"sure of \d+ things at once"),
    "objectness first": ("yolov8n_640_deq", objectness_first, "first of its 81 classes .* objectness"),
    "most likely class alone": ("yolov8n_640_deq", most_likely_class_alone, "fit no known layout"),
    "traffic without names": ("yolov8n_640_deq", only_classes(2, 5, 7, 9, 11), "sees neither the person nor"),
    "classes moved": ("yolov8n_640_deq", classes_moved_by_one, "not COCO's: .* person under number 1;"),
    "left, right, top, bottom": (
        "yolo26n_deq",
        left_right_top_bottom,
        "boxes are inside out when read as xyxy",
    ),
    "cat first": ("yolo26n_deq", cat_first, "not COCO's: .* the cat under number 0;"),
}


@pytest.mark.parametrize("case", NOT_SILENT)
def test_what_cannot_be_read_or_fed_for_sure_is_not_taken_silently(
    case: str, assets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, alter, says = NOT_SILENT[case]
    graph = Graph(assets / "models" / f"{name}.onnx")
    alter(graph)
    path = graph.save(tmp_path / "altered.onnx")
    try:
        Detector(path)
    except ModelError as error:
        caplog.records.clear()
        said = str(error)
    else:
        said = " ".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert re.search(says, said), said
