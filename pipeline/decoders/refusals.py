"""Why a model is refused before anybody looks at its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from pipeline.decoders.contract import IMAGE_DTYPES, image_input, layout_of, unknown_extra
from pipeline.decoders.family import Task, TensorInfo


def input_problem(inputs: Sequence[TensorInfo]) -> str | None:
    """Return what is wrong with the inputs; None for one image and what is known beside it."""
    image = image_input(inputs)
    if image is None:
        ranks = ", ".join(str(len(tensor.shape)) for tensor in inputs)
        return (
            f"it has {len(inputs)} inputs{f' of rank {ranks}' if ranks else ''}; "
            "expected one image [N, 3, H, W] or [N, H, W, 3]"
        )
    extra = unknown_extra(inputs)
    if extra is not None:
        return f"its input {extra} is not known; export it with the image as its only input"
    layout = layout_of(image)
    channels = image.shape[-3] if layout == "NCHW" else image.shape[3]
    if channels not in (3, None):
        return f"its input has {channels} channels; expected 3 (a colour image, [N, 3, H, W])"
    if image.dtype not in IMAGE_DTYPES:
        return f"its input is {image.dtype}; expected {', '.join(IMAGE_DTYPES)}: export it with one of those"
    return None


def output_problem(outputs: Sequence[TensorInfo]) -> str | None:
    """Return what is wrong with the outputs, where nobody has to run a large model to tell.

    Torchvision's Mask and Keypoint R-CNN are Faster R-CNN (boxes [N, 4], labels [N], scores [N]) with
    masks [N, 1, H, W], or keypoints [N, K, 3] and their scores [N, K].
    """
    ranks = sorted(len(output.shape) for output in outputs)
    more = {(1, 1, 2, 4): "masks", (1, 1, 2, 2, 3): "keypoints"}.get(tuple(ranks))
    boxes = any(len(output.shape) == 2 and output.shape[1] == 4 for output in outputs)
    if more is None or not boxes:
        return None
    return (
        f"it gives {more} beside boxes, labels and scores, as torchvision's R-CNNs do, and those are not "
        "read; export it with boxes, labels and scores as its only outputs"
    )


def task_problem(metadata: Mapping[str, str]) -> str | None:
    """Return what a model's own metadata say it is, where that is nothing that is known."""
    task = metadata.get("task") or "detect"
    if task not in get_args(Task):
        return f"it is a model for another task ({task}); known: {', '.join(get_args(Task))}"
    return None
