"""Detection heads, decoded in the graph: yolo (v3, v4), Gaussian_yolo, region (v2), detection (v1).

Each returns a tensor [batch, 4 + classes, boxes]: cx, cy, w, h in pixels of the input, then for each
class objectness · class probability; of a tree of classes [batch, 5, boxes], with the objectness behind
the box, and the numbers of the classes apart. With (i, j) the column and row of a cell, ``stride`` the
size of a cell in input pixels, and (pw, ph) an anchor, for yolo and region:

    cx = (i + σ(x)) · stride,  w = pw · exp(w'),  score = σ(o) · p

after ``get_yolo_box`` (yolo_layer.c) and ``get_region_box`` (region_layer.c), which give the same as
fractions of the input. Redmon, Farhadi, "YOLO9000" (2016), section 2; "YOLOv3" (2018), section 2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.convert.cfg import Section
from pipeline.convert.graph import Feature, Graph
from pipeline.convert.hierarchy import Hierarchy
from pipeline.convert.weighted import refuse


@dataclass(frozen=True, slots=True)
class Head:
    """The boxes of one head, [batch, rows, boxes], and the thresholds its program uses for it.

    ``kinds`` are the classes' numbers, int64 [batch, boxes], where there is one for each box, from a tree,
    instead of a score for each class.
    """

    name: str
    classes: int
    boxes: int
    kinds: str | None
    conf_threshold: float
    iou_threshold: float

    @property
    def rows(self) -> int:
        """Of the tensor."""
        return 4 + (1 if self.kinds is not None else self.classes)


def yolo(graph: Graph, layer: Section, came: Feature, input_hw: tuple[int, int]) -> Head:
    """v3 and v4: anchors in input pixels, those of ``mask``.

    ``scale_x_y`` s (v4): cx = (i + s · σ(x) - (s - 1) / 2) · stride. ``new_coords`` (Scaled-YOLOv4): the
    layer before has the sigmoid, and w = pw · (2 · w')² (AlexeyAB's yolo_layer.c).
    """
    anchors = _masked(layer)
    scale, plain = layer.number("scale_x_y", 1.0), bool(layer.integer("new_coords", 0))
    sigmoid: Callable[[str], str] = (lambda x: x) if plain else (lambda x: graph.add("Sigmoid", [x]))
    cells = _Cells.of(layer, came, input_hw, len(anchors), layer.integer("classes", 20, 1))
    xy, wh, objectness, classes = cells.split(graph, came)
    if plain:
        wh = graph.add("Mul", [wh, wh])
        sizes = 4.0 * anchors
    else:
        wh, sizes = graph.add("Exp", [wh]), anchors
    scores = graph.add("Mul", [sigmoid(objectness), sigmoid(classes)])
    return cells.join(graph, sigmoid(xy), scale, wh, sizes, scores)


def gaussian_yolo(graph: Graph, layer: Section, came: Feature, input_hw: tuple[int, int]) -> Head:
    """v3 whose x, y, w, h each have an uncertainty behind them: score = σ(o) · p · (1 - the mean of their σ).

    Choi and others, "Gaussian YOLOv3" (2019), equation 8; ``get_gaussian_yolo_detections`` of AlexeyAB's
    gaussian_yolo_layer.c.
    """
    if layer.text("yolo_point", "center") != "center":
        raise layer.unsupported(f"yolo_point={layer.text('yolo_point', '')}", "yolo_point")
    anchors, scale = _masked(layer), layer.number("scale_x_y", 1.0)
    cells = _Cells.of(layer, came, input_hw, len(anchors), layer.integer("classes", 20, 1), before=9)
    name = graph.shape(came.name, cells.count, 9 + cells.classes, cells.h * cells.w)
    box, objectness, classes = graph.split(name, 2, [8, 1, cells.classes])
    xy, wh, spread = (graph.slice(box, {2: span}) for span in ((0, 4, 2), (4, 8, 2), (1, 8, 2)))
    unsure = graph.add("ReduceMean", [graph.add("Sigmoid", [spread])], axes=[2], keepdims=1)
    sure = graph.add("Sub", [graph.constant(1.0), unsure])
    scores = graph.add("Mul", [graph.add("Sigmoid", [objectness]), graph.add("Sigmoid", [classes])])
    scores = graph.add("Mul", [scores, sure])
    xy, wh = graph.add("Sigmoid", [xy]), graph.add("Exp", [wh])
    return cells.join(graph, xy, scale, wh, anchors, scores)


def region(
    graph: Graph,
    layer: Section,
    came: Feature,
    input_hw: tuple[int, int],
    hierarchy: Hierarchy | None = None,
) -> Head:
    """v2: anchors in cells; class probabilities by softmax where ``softmax`` is set, else by sigmoid.

    With ``tree`` (YOLO9000) a box's score is its objectness, and its class comes from the tree. Darknet
    reads ``map`` in training only.
    """
    refuse(layer, ("background",))
    _four_coordinates(layer)
    count = layer.integer("num", 1, 1)
    cells = _Cells.of(layer, came, input_hw, count, layer.integer("classes", 20, 1))
    xy, wh, objectness, classes = cells.split(graph, came)
    scores = graph.add("Sigmoid", [objectness])
    kinds = None
    if hierarchy is not None and "tree" in layer.options:
        hierarchy.check(layer, cells.classes)
        kinds = hierarchy.deepest(graph, classes, count, cells.h * cells.w)
    elif layer.integer("softmax", 0):
        scores = graph.add("Mul", [scores, graph.add("Softmax", [classes], axis=2)])
    else:
        scores = graph.add("Mul", [scores, graph.add("Sigmoid", [classes])])
    sizes = _anchors(layer, count) * np.array(cells.stride_xy)
    xy, wh = graph.add("Sigmoid", [xy]), graph.add("Exp", [wh])
    return cells.join(graph, xy, 1.0, wh, sizes, scores, kinds=kinds)


def detection(graph: Graph, layer: Section, came: Feature, input_hw: tuple[int, int]) -> Head:
    """v1: for side² cells the classes [cells, C], then ``num`` objectnesses, then ``num`` boxes each.

    cx = (i + x) · stride; w = w'² · input with ``sqrt``, else w' · input (``get_detection_detections``).
    They are the outputs of a regression: scores are clipped to 0..1.
    """
    _four_coordinates(layer, default=1)
    side, count = layer.integer("side", 7, 1), layer.integer("num", 1, 1)
    num_classes, places = layer.integer("classes", 1, 1), side * side
    wanted = places * (num_classes + 5 * count)
    if came.size != wanted:
        raise layer.error(
            f"expected {wanted} values before it (side² · (classes + 5 · num)); got {came.size}"
        )
    parts = graph.split(graph.flat(came).name, 1, [places * num_classes, places * count, places * count * 4])
    classes = graph.shape(parts[0], places, num_classes)
    if layer.integer("softmax", 0):
        classes = graph.add("Softmax", [classes], axis=2)
    # All of them become [batch, num, rows, cells].
    classes = graph.shape(graph.add("Transpose", [classes], perm=[0, 2, 1]), 1, num_classes, places)
    objectness = graph.add("Transpose", [graph.shape(parts[1], places, count)], perm=[0, 2, 1])
    objectness = graph.shape(objectness, count, 1, places)
    boxes = graph.add("Transpose", [graph.shape(parts[2], places, count, 4)], perm=[0, 2, 3, 1])
    xy, wh = graph.split(boxes, 2, [2, 2])
    if layer.integer("sqrt", 0):
        wh = graph.add("Mul", [wh, wh])
    scores = graph.add("Mul", [objectness, classes])
    scores = graph.add("Clip", [scores, graph.constant(0.0), graph.constant(1.0)])
    cells = _Cells(count, num_classes, side, side, (input_hw[1] / side, input_hw[0] / side))
    sizes = np.tile(np.array([[input_hw[1], input_hw[0]]], np.float64), (count, 1))
    return cells.join(graph, xy, 1.0, wh, sizes, scores, thresholds=(0.2, 0.4))


def _four_coordinates(layer: Section, default: int = 4) -> None:
    if layer.integer("coords", default) != 4:
        raise layer.unsupported(f"coords={layer.integer('coords', default)} (only 4 are boxes)", "coords")


def _masked(layer: Section) -> NDArray[np.float64]:
    """Return the anchors of ``mask``, [count, 2]."""
    total = layer.integer("num", 1, 1)
    mask = layer.integers("mask") or list(range(total))
    anchors = _anchors(layer, total)
    if not all(0 <= index < total for index in mask):
        raise layer.error(f"mask: expected indices of num={total} anchors; got {mask}", "mask")
    return anchors[mask]


def _anchors(layer: Section, total: int) -> NDArray[np.float64]:
    """Return [total, 2], width and height; .5 where none are given, as Darknet has it."""
    values = layer.numbers("anchors")
    if not values:
        return np.full((total, 2), 0.5)
    if len(values) < 2 * total:
        raise layer.error(
            f"anchors: expected {2 * total} numbers for num={total}; got {len(values)}", "anchors"
        )
    return np.array(values[: 2 * total]).reshape(total, 2)


@dataclass(frozen=True, slots=True)
class _Cells:
    """``count`` anchors in each of h × w cells."""

    count: int
    classes: int
    h: int
    w: int
    stride_xy: tuple[float, float]

    @staticmethod
    def of(
        layer: Section, came: Feature, input_hw: tuple[int, int], count: int, classes: int, before: int = 5
    ) -> _Cells:
        """Return the cells of a feature map, with ``before`` values of a box before its classes.

        Raises ModelError where it is not made for that many classes.
        """
        if came.flat or came.c != count * (before + classes):
            wanted = (
                f"{count * (before + classes)} channels before it ({count} anchors · ({before} + {classes}"
            )
            raise layer.error(
                f"expected {wanted} classes)); got {came.c}: "
                "filters= of the layer before it, classes= or its anchors are wrong"
            )
        return _Cells(count, classes, came.h, came.w, (input_hw[1] / came.w, input_hw[0] / came.h))

    def split(self, graph: Graph, came: Feature) -> Sequence[str]:
        """Return xy, wh, objectness and classes, [batch, anchors, rows, cells] each."""
        name = graph.shape(came.name, self.count, 5 + self.classes, self.h * self.w)
        return graph.split(name, 2, [2, 2, 1, self.classes])

    def join(
        self,
        graph: Graph,
        xy: str,
        scale: float,
        wh: str,
        sizes: NDArray[Any],
        scores: str,
        thresholds: tuple[float, float] = (0.5, 0.45),
        kinds: str | None = None,
    ) -> Head:
        """Return the head of ``xy`` in 0..1 of a cell, and ``wh`` in ``sizes`` [anchors, 2] input pixels.

        The thresholds are Darknet's own defaults: .5 and NMS at .45 in ``test_detector``
        (detector.c), .2 and .4 for v1 (yolo.c).
        """
        stride = np.array(self.stride_xy).reshape(1, 1, 2, 1)
        columns, rows = np.meshgrid(np.arange(self.w), np.arange(self.h))
        corner = np.stack([columns.ravel(), rows.ravel()]).reshape(1, 1, 2, -1) - (scale - 1) / 2
        xy = graph.add("Mul", [xy, graph.constant(scale * stride)])
        xy = graph.add("Add", [xy, graph.constant(corner * stride)])
        wh = graph.add("Mul", [wh, graph.constant(sizes.reshape(1, self.count, 2, 1))])
        name = graph.add("Concat", [xy, wh, scores], axis=2)
        # Blocks of whole maps change places, so this costs a copy and no more.
        name = graph.add("Transpose", [name], perm=[0, 2, 1, 3])
        head = Head(name, self.classes, self.count * self.h * self.w, kinds, *thresholds)
        return replace(head, name=graph.shape(name, head.rows, head.boxes))
