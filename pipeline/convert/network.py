"""A cfg and its weights, layer by layer, to the graph of a detector or a classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pipeline.convert import heads, joins, layers, weighted
from pipeline.convert.cfg import Section
from pipeline.convert.graph import Feature, Graph
from pipeline.convert.heads import Head
from pipeline.convert.hierarchy import Hierarchy
from pipeline.convert.weights import WeightsFile
from pipeline.errors import ModelError

_Weighted = Callable[[Graph, Section, Feature, WeightsFile], Feature]
_Plain = Callable[[Graph, Section, Feature], Feature]
_Joining = Callable[[Graph, Section, Feature, joins.Earlier], Feature]
_Head = Callable[[Graph, Section, Feature, tuple[int, int]], Head]

WEIGHTED: Mapping[str, _Weighted] = {
    "convolutional": weighted.convolutional,
    "connected": weighted.connected,
    "local": weighted.local,
    "batchnorm": weighted.batchnorm,
}
PLAIN: Mapping[str, _Plain] = {
    "maxpool": layers.maxpool,
    "local_avgpool": layers.local_avgpool,
    "avgpool": layers.avgpool,
    "upsample": layers.upsample,
    "reorg": layers.reorg,
    "softmax": layers.softmax,
    "crop": layers.crop,
    "activation": layers.activation,
}
JOINING: Mapping[str, _Joining] = {
    "route": joins.route,
    "shortcut": joins.shortcut,
    "sam": joins.sam,
    "scale_channels": joins.scale_channels,
}
TRAINING = ("dropout", "cost")
"""They hand on what came in, outside of training."""
_LARGEST = 1 << 28
_LONGEST = 8192
HEADS: Mapping[str, _Head] = {
    "yolo": heads.yolo,
    "Gaussian_yolo": heads.gaussian_yolo,
    "region": heads.region,
    "detection": heads.detection,
}
LAYERS = tuple(sorted([*WEIGHTED, *PLAIN, *JOINING, *TRAINING, *HEADS], key=str.lower))


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A finished graph. ``output`` has the shape [batch, …``shape``], ``kinds`` (see ``Head``) belong to it
    where they are there: the layout of the decoder ``family``. Thresholds only of a detector."""

    graph: Graph
    input_hw: tuple[int, int]
    output: str
    shape: tuple[int, ...]
    classes: int
    family: str
    thresholds: tuple[float, float] | None
    kinds: str | None = None

    @property
    def detects(self) -> bool:
        """Whether it is a detector, else a classifier."""
        return self.thresholds is not None


def build(
    net: Section, sections: Sequence[Section], weights: WeightsFile, hierarchy: Hierarchy | None = None
) -> Network:
    """Build the graph of a cfg and its weights, ``hierarchy`` where layers have a tree. Raises ModelError."""
    width, height = net.integer("width", 0), net.integer("height", 0)
    channels = net.integer("channels", 3)
    if not width or not height or channels != 3:
        raise net.error(
            f"expected a network for pictures, with width, height and channels=3; "
            f"got width={width}, height={height}, channels={channels}"
        )
    if max(width, height) > _LONGEST:
        raise net.error(f"expected sides of at most {_LONGEST} pixels; got {width}x{height}")
    graph = Graph()
    came = Feature("images", 3, height, width)
    earlier: list[Feature | None] = []
    found: list[Head] = []
    last: Section | None = None
    known: dict[str, _Head] = {**HEADS, "region": partial(heads.region, hierarchy=hierarchy)}
    plain: dict[str, _Plain] = {**PLAIN, "softmax": partial(layers.softmax, hierarchy=hierarchy)}
    for layer in sections:
        graph.scope = f"{layer.index}_{layer.kind}"
        if layer.kind in HEADS:
            found.append(known[layer.kind](graph, layer, came, (height, width)))
            earlier.append(None)
        else:
            if earlier and earlier[-1] is None and layer.kind not in ("route", "cost"):
                raise layer.error("a detection head hands nothing on; expected [route] behind it")
            came = _step(graph, layer, came, earlier, weights, plain)
            if came.size > _LARGEST:
                raise layer.error(f"it answers {came.size:,} values for one picture, which is too many")
            earlier.append(came)
        if layer.kind not in TRAINING:
            if last is not None and last.kind == "softmax" and "tree" in last.options:
                raise last.unsupported("a tree of classes before the last layer", "tree")
            last = layer
    weights.finish(len(sections))
    if found:
        return _detector(graph, sections[-1], found, (height, width))
    if last is None or last.kind != "softmax":
        raise ModelError(
            f"{net.file} is neither a detector nor a classifier: expected [yolo], [region], [detection] or "
            f"[softmax] at its end; got {f'[{last.kind}]' if last else 'none of any use'}"
        )
    return Network(graph, (height, width), came.name, (came.size,), came.size, "classifier-unit", None)


def _step(
    graph: Graph,
    layer: Section,
    came: Feature,
    earlier: joins.Earlier,
    weights: WeightsFile,
    plain: Mapping[str, _Plain],
) -> Feature:
    if layer.kind in WEIGHTED:
        return WEIGHTED[layer.kind](graph, layer, came, weights)
    if layer.kind in plain:
        return plain[layer.kind](graph, layer, came)
    if layer.kind in JOINING:
        return JOINING[layer.kind](graph, layer, came, earlier)
    if layer.kind in TRAINING:
        return came
    raise layer.unsupported(f"layer type [{layer.kind}] (known: {', '.join(LAYERS)})")


def _detector(graph: Graph, layer: Section, found: Sequence[Head], input_hw: tuple[int, int]) -> Network:
    classes = {head.classes for head in found}
    if len(classes) != 1:
        raise layer.error(f"expected heads of one number of classes; got {sorted(classes)}")
    kinds = [head.kinds for head in found if head.kinds is not None]
    if len(kinds) not in (0, len(found)):
        raise layer.unsupported("a tree of classes in some of the heads")
    graph.scope = "boxes"
    head = found[0]
    return Network(
        graph,
        input_hw,
        _joined(graph, [head.name for head in found], 2),
        (head.rows, sum(head.boxes for head in found)),
        head.classes,
        "yolo9000" if kinds else "yolov8",
        (head.conf_threshold, head.iou_threshold),
        _joined(graph, kinds, 1) if kinds else None,
    )


def _joined(graph: Graph, names: Sequence[str], axis: int) -> str:
    return names[0] if len(names) == 1 else graph.add("Concat", names, axis=axis)
