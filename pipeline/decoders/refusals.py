"""Why a model is refused: layouts that are known, but not supported, told from what the file declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.decoders.candidates import cell_count
from pipeline.decoders.contract import IMAGE_DTYPES, image_input, layout_of, unknown_extra
from pipeline.decoders.family import COCO_CLASSES, TensorInfo

_LEVELS = ((8, 16, 32), (8, 16, 32, 64))
_TASKS = {
    "segment": "a segmentation model (its metadata say task segment)",
    "pose": "a pose model (its metadata say task pose)",
    "obb": "a model of rotated boxes (its metadata say task obb)",
    "classify": "a classifier (its metadata say task classify): it gives no boxes",
}
_END_TO_END = "an end-to-end export with its own NMS (such as YOLOv10, YOLO26 or nms=True)"


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
    channels = image.shape[1] if layout == "NCHW" else image.shape[3]
    if channels not in (3, None):
        return f"its input has {channels} channels; expected 3 (a colour image, [N, 3, H, W])"
    if image.dtype not in IMAGE_DTYPES:
        return f"its input is {image.dtype}; expected {', '.join(IMAGE_DTYPES)}: export it with one of those"
    return None


def task_problem(metadata: Mapping[str, str]) -> str | None:
    """Return what a model's own metadata say it is, where that is not a plain detector."""
    task = metadata.get("task", "detect")
    if task != "detect":
        return f"it is {_TASKS.get(task, f'a model for another task ({task})')}; expected a detector"
    if metadata.get("end2end", "").lower() == "true" or "'nms': True" in metadata.get("args", ""):
        return f"it is {_END_TO_END} (its metadata say so), which is not supported yet"
    return None


def output_problem(
    outputs: Sequence[TensorInfo], input_hw: tuple[int, int], num_classes: int | None
) -> str | None:
    """Return the layout that the outputs look like, where it is a known one; None where it is not."""
    shapes = [output.shape for output in outputs]
    if len(shapes) == 2 and sorted(map(len, shapes)) == [3, 4]:
        return "it looks like a segmentation model (boxes and mask prototypes); expected a detector"
    if len(shapes) == 2 and all(len(shape) == 3 for shape in shapes) and 4 in (shapes[0][2], shapes[1][2]):
        return "it looks like an SSD (separate scores and boxes), which is not supported"
    if any(None in shape[1:] for shape in shapes):
        return (
            "the file doesn't declare the sizes of its outputs; "
            "export it with static shapes, or with the metadata that Ultralytics writes"
        )
    if len(shapes) != 1:
        return None
    return _single_output_problem(shapes[0], input_hw, num_classes)


def _single_output_problem(
    shape: tuple[int | None, ...], input_hw: tuple[int, int], num_classes: int | None
) -> str | None:
    if len(shape) == 2:
        return f"it looks like a classifier ({shape[1]} classes, no boxes); expected a detector"
    if len(shape) == 4:
        return "its output is a feature map (raw heads, such as FastestDet's), which is not supported"
    if len(shape) != 3 or shape[1] is None or shape[2] is None:
        return None
    rows, columns = shape[1], shape[2]
    cells = [cell_count(input_hw, strides) for strides in _LEVELS]
    if columns == 6 and rows <= 1000 and rows not in cells:
        return f"it looks like {_END_TO_END}, which is not supported yet"
    if rows in [3 * count for count in cells]:
        return f"it looks like YOLOv5 or YOLOv7 (3 anchors a cell, 5 + {columns - 5}), not supported yet"
    if rows in cells and columns - 4 == (num_classes or COCO_CLASSES):
        return f"it looks like YOLOv8 with its axes exchanged; expected [1, {columns}, {rows}]"
    return None
