"""Other formats to ONNX: Darknet's ``.cfg`` and ``.weights``.

Needs the package ``onnx``, which ``framerail[convert]`` brings; the converted model does not.

What comes out takes ``images`` float32 [batch, 3, H, W], RGB / 255, with the height and width of the cfg
or those asked for,
and gives ``output``: of a detector [batch, 4 + classes, boxes], decoded (cx, cy, w, h in input pixels,
then objectness · class probability for each class); of a classifier [batch, classes], probabilities.

Where classes form a tree (YOLO9000), a box has one class, the deepest one over ``tree_threshold``:
``output`` of a detector is [batch, 5, boxes], the box and its objectness, and beside it ``classes`` int64
[batch, boxes]. 9418 scores for each of 867 boxes would be 33 MB for each picture, nearly all of them 0;
in a float, a class beyond 2048 would not outlive a float16 build. A classifier gives a probability for
each leaf and 0 for what is above.

What a model card would say stands in the file's metadata, each value a text:

=====================  ==============================================================================
``names``              repr of a dict from class index to label; without labels ``class 0``, ``class 1``, …:
                       of 1000 classes nobody must take them for ImageNet's in the usual order,
                       which is not Darknet's; of a tree the names that stand in it
``task``               ``detect`` or ``classify``
``imgsz``              repr of [height, width]
``framerail.family``   a card's ``family``: ``yolov8`` (whose layout a detector has), ``yolo9000`` of a tree,
                       ``classifier-unit``
``framerail.input``    JSON object, the keys of a card's ``[input]``: ``color`` (text), ``mean`` and ``std``
                       (three numbers each, for pixels of 0..255), ``resize``, ``align`` (text), ``pad``
                       (whole number)
``framerail.params``   JSON object, the keys of a card's ``[params]``: ``multi_label`` of a detector (Darknet
                       reports each class of a box that is above the threshold); {} of a tree, a classifier
``framerail.card``     JSON object, keys above a card's tables: ``conf_threshold`` and ``iou_threshold`` of a
                       detector (.5 and .45; YOLOv1 .2 and .4), {} of a classifier
=====================  ==============================================================================

``resize`` is ``letterbox`` with a grey of 127, centred, as Darknet's ``detector test`` and ``classifier
predict`` feed (``letterbox_image`` fills with .5); AlexeyAB's Darknet and
``cv2.dnn.blobFromImage(1/255, size, swapRB)`` are ``stretch``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.convert.cfg import read_cfg
from pipeline.convert.tree import Tree, tree_of
from pipeline.convert.weights import WeightsFile
from pipeline.errors import ConfigError, DependencyError

Resize = Literal["letterbox", "stretch"]


@dataclass(frozen=True, slots=True)
class Converted:
    """An ONNX model's bytes, and what is worth saying of it. ``labels`` is empty where it has none but
    those of its tree of classes, which is None where it has no tree."""

    model: bytes
    task: Literal["detect", "classify"]
    input_hw: tuple[int, int]
    classes: int
    output_shape: tuple[int, ...]
    labels: tuple[str, ...]
    layers: int
    weights: int
    metadata: dict[str, str]
    tree: Tree | None = None


def convert_darknet(
    cfg: Path,
    weights: Path,
    labels: Sequence[str] = (),
    coco: Sequence[str] = (),
    resize: Resize = "letterbox",
    tree: Path | None = None,
    tree_threshold: float = 0.5,
    input_hw: tuple[int, int] | None = None,
) -> Converted:
    """Convert a Darknet network to ONNX; equal files give equal bytes.

    ``labels`` are one for each class; where there are none and a detector has as many classes as
    ``coco``, those are taken. ``tree`` counts instead of the file that ``tree=`` in the cfg names;
    ``tree_threshold``, 0..1, is Darknet's ``-hier``, and .5 its default. ``input_hw`` stands in for
    the cfg's height and width. Raises ModelError
    for files that cannot be read, do not belong together, or hold what is not supported; ConfigError
    for labels of another number and a ``tree`` that nothing asks for; DependencyError where the
    package onnx is missing.
    """
    if not 0 <= tree_threshold <= 1:
        raise ConfigError(f"--tree-threshold: expected a number in 0..1; got {tree_threshold}")
    try:
        from pipeline.convert.hierarchy import Hierarchy
        from pipeline.convert.network import build
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "onnx":
            raise
        raise DependencyError(
            "converting models needs the package onnx, which is not installed; "
            "install it with: pip install 'framerail[convert]'"
        ) from None
    net, sections = read_cfg(cfg)
    if input_hw is not None:
        for key, pixels in zip(("height", "width"), input_hw, strict=True):
            net.options[key] = str(pixels), net.line
    file = WeightsFile.read(weights)
    classes = tree_of(cfg, sections, tree)
    network = build(net, sections, file, None if classes is None else Hierarchy(classes, tree_threshold))
    if labels and len(labels) != network.classes:
        raise ConfigError(
            f"labels: expected {network.classes}, one for each class of {cfg.name}; got {len(labels)}"
        )
    if not labels and classes is None and network.detects and len(coco) == network.classes:
        labels = coco
    task: Literal["detect", "classify"] = "detect" if network.detects else "classify"
    unnamed = classes.names if classes is not None else tuple(f"class {n}" for n in range(network.classes))
    metadata = _metadata(
        network.family, task, network.input_hw, labels or unnamed, resize, network.thresholds
    )
    model = network.graph.serialise(
        (3, *network.input_hw), network.output, network.shape, metadata, network.kinds
    )
    return Converted(
        model=model,
        task=task,
        input_hw=network.input_hw,
        classes=network.classes,
        output_shape=network.shape,
        labels=tuple(labels),
        layers=len(sections),
        weights=len(file.values),
        metadata=metadata,
        tree=classes,
    )


def _metadata(
    family: str,
    task: Literal["detect", "classify"],
    input_hw: tuple[int, int],
    names: Sequence[str],
    resize: Resize,
    thresholds: tuple[float, float] | None,
) -> dict[str, str]:
    fed = {
        "color": "RGB",
        "mean": [0.0, 0.0, 0.0],
        "std": [255.0, 255.0, 255.0],
        "resize": resize,
        "align": "center",
        "pad": 127,
    }
    above = (
        {} if thresholds is None else dict(zip(("conf_threshold", "iou_threshold"), thresholds, strict=True))
    )
    return {
        "names": repr(dict(enumerate(names))),
        "task": task,
        "imgsz": repr(list(input_hw)),
        "framerail.family": family,
        "framerail.input": json.dumps(fed),
        "framerail.params": json.dumps({"multi_label": True} if family == "yolov8" else {}),
        "framerail.card": json.dumps(above),
    }
