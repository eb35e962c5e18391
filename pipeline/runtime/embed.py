"""A card for a model's own metadata: the other side of ``card.embedded_card``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline.decoders.contract import image_input, spatial
from pipeline.runtime.model import Model

QUANTISED_KEY = "framerail.quantized"
"""Holds what ``models quantize`` says of its product: a JSON object."""

_FED = ("layout", "color", "mean", "std", "resize", "align", "pad", "interpolation")


def embedded(model: Model) -> dict[str, str]:
    """What makes a copy of ``model`` be fed and read as ``model`` is: metadata of a file, as text.

    The file's own, and over them a card (``framerail.family``, ``.card``, ``.input``, ``.params``) with
    what a card beside the file says or identification found.
    """
    spec, family = model.spec, model.family
    fed: dict[str, Any] = {key: getattr(spec, key) for key in _FED}
    if spec.resize == "crop":
        fed["crop"] = spec.crop
    image = image_input(model.session.inputs)
    if image is not None and None in spatial(image):
        fed["size"] = [spec.height, spec.width]
        if spec.stride is not None:
            fed["stride"] = spec.stride
    above = {
        "labels": list(model.labels),
        "conf_threshold": model.conf_threshold,
        "iou_threshold": model.iou_threshold,
        "license": model.license,
    }
    params = {name: value for name, value in model.params.items() if name in family.params}
    return {
        **model.session.metadata,
        "framerail.family": family.name,
        "framerail.card": json.dumps(above, ensure_ascii=False),
        "framerail.input": json.dumps(fed),
        "framerail.params": json.dumps(params, default=_plain),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a parameter of type {type(value).__name__} has no place in metadata")
