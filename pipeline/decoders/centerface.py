"""CenterFace (Star-Clouds): faces as points, with five landmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import faces
from pipeline.decoders.candidates import Candidates, malformed
from pipeline.decoders.family import Family, InputDefaults, Match, Param, View, flag

_NAME = "centerface"
_STRIDE = 4
_EXPECTED = (
    "a heatmap [1, 1, h, w], scales [1, 2, h, w], offsets [1, 2, h, w] and landmarks [1, 10, h, w] "
    "of a quarter of the input"
)
_CHANNELS = (1, 2, 2, 10)
_HOLDS = {1: "heatmap of faces", 10: "five landmarks, y before x, as fractions of the box"}


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode a heatmap [1, 1, h, w], scales and offsets [1, 2, h, w] and landmarks [1, 10, h, w].

    Each cell above the threshold is a candidate: there is no peak picking, boxes go through NMS.
    Its height and width are exp(scale) · 4, its centre ((column, row) + offset + .5) · 4 in input
    pixels; scales, offsets and landmarks have y before x. As in the authors' code the left top
    corner is brought into the input first, and the box reaches from there by its size, to the
    input's border at most; a landmark is that corner plus its fraction of the size (Xu et al. 2019,
    "CenterFace", section 3; ``decode`` in the authors' ``centerface.py``). Channels tell the outputs
    apart, and scales come before offsets unless ``params`` say ``offsets_first``. Raises ModelError
    for other shapes.
    """
    order = _order([o.shape[-3:] for o in outputs], input_hw, bool(params.get("offsets_first")))
    if (
        order is None
        or any(o.ndim not in (3, 4) or (o.ndim == 4 and len(o) != 1) for o in outputs)
        or not all(np.issubdtype(o.dtype, np.floating) for o in outputs)
    ):
        raise malformed(_NAME, _EXPECTED, outputs)
    heat, scale, offset, marks = (outputs[i].reshape(outputs[i].shape[-3], -1) for i in order)
    columns = outputs[order[0]].shape[-1]

    cells = np.flatnonzero(heat[0] > conf_threshold)
    scores = heat[0, cells]
    limit = np.array([input_hw[1], input_hw[0]], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        # Turned round, so that x comes first.
        size = np.exp(scale[::-1, cells].T.astype(np.float32)) * np.float32(_STRIDE)
        shift = offset[::-1, cells].T.astype(np.float32)
        places = np.stack([cells % columns, cells // columns], axis=1).astype(np.float32)
        corner = np.clip((places + shift + np.float32(0.5)) * np.float32(_STRIDE) - size / 2, 0, limit)
        boxes = np.concatenate([corner, np.minimum(corner + size, limit)], axis=1)
        fractions = marks[:, cells].T.astype(np.float32).reshape(-1, faces.LANDMARKS, 2)[:, :, ::-1]
        points = corner[:, None] + fractions * size[:, None]
    # What is clipped is finite, whatever it was.
    sound = np.isfinite(size).all(axis=1) & np.isfinite(shift).all(axis=1)
    return Candidates.checked(
        boxes[sound],
        scores[sound],
        np.zeros(int(sound.sum()), np.int32),
        keypoints=faces.landmarks(points[sound]),
    )


def _order(
    shapes: Sequence[tuple[int | None, ...]], input_hw: tuple[int, int], offsets_first: bool
) -> list[int] | None:
    """Return the places of heatmap, scales, offsets and landmarks; None where they aren't so."""
    cells = tuple(-(-side // _STRIDE) for side in input_hw)
    if len(shapes) != 4 or any(len(s) != 3 or s[1:] != cells for s in shapes):
        return None
    channels = [shape[0] for shape in shapes]
    order = sorted(range(4), key=lambda index: channels[index] or 0)
    if tuple(channels[index] for index in order) != _CHANNELS:
        return None
    return [order[0], order[2], order[1], order[3]] if offsets_first else order


def recognise(view: View) -> Match | None:
    """Four outputs of rank 4 on a grid of stride 4, with 1, 2, 2 and 10 channels."""
    if any(len(shape) != 4 for shape in view.shapes) or view.num_classes not in (None, 1):
        return None
    names = [output.name.lower() for output in view.outputs]
    scale_at, offset_at = (
        next((i for i, name in enumerate(names) if word in name), None) for word in ("scale", "off")
    )
    named = scale_at is not None and offset_at is not None
    offsets_first = scale_at is not None and offset_at is not None and offset_at < scale_at
    order = _order([shape[1:] for shape in view.shapes], view.input_hw, offsets_first)
    if order is None:
        return None
    told = "by their names" if named else "as the authors export them, scales before offsets"
    heat, scale, offset, marks = (view.outputs[index].name for index in order)
    reason = (
        f"heatmap {heat}, scales {scale}, offsets {offset} and landmarks {marks} with 1, 2, 2 and 10 "
        f"channels at stride {_STRIDE}, told {told}"
    )
    if view.tried:
        if not faces.probable([view.arrays[order[0]]]):
            return None
        reason += "; in the trial run the heatmap holds probabilities"
    holds = [_HOLDS.get(shape[1] or 0, "") for shape in view.shapes]
    holds[order[1]], holds[order[2]] = "log of height and width in cells", "offsets y, x in cells"
    return Match(1, {"offsets_first": offsets_first}, reason, True, tuple(holds))


FAMILY = Family(
    name=_NAME,
    layout="heatmap [1, 1, h, w], scales, offsets [1, 2, h, w], landmarks [1, 10, h, w], faces: CenterFace",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "stretch", "center", 0),
    input_hw=(480, 640),
    conf_threshold=0.50,
    iou_threshold=0.30,
    params={"offsets_first": Param(flag, "true: offsets come before scales; false (default): after")},
    labels=("face",),
)
