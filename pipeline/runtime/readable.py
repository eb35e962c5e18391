"""A model's file as a message whose graph may be edited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from pipeline.errors import ModelError
from pipeline.runtime.onnx_messages import ModelMessage
from pipeline.runtime.rewrite import LARGEST

LEAST_OPSET = 7
"""From here on arithmetic broadcasts, and Cast names its type by a number."""


def readable(
    path: Path,
    picture: str,
    refused: Callable[[str], ModelError],
    data: bytes | None = None,
    least_opset: int = LEAST_OPSET,
) -> Any:
    """The model in ``path``, or in ``data``, which is an edit of it already.

    Raises what ``refused`` makes of the reason why its graph, which takes ``picture``, cannot be edited.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise refused(f"it has {size:,} bytes, and graphs are edited up to {LARGEST:,}")
    try:
        model = ModelMessage.FromString(data or path.read_bytes())
    except DecodeError:
        raise refused("its file is not in ONNX's own format") from None
    if picture not in {each.name for each in model.graph.input}:
        raise refused(f"its file does not declare the input {picture!r}")
    if any(tensor.data_location for tensor in model.graph.initializer):
        raise refused("its weights lie in files beside it; save it as one file")
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)
    if opset < least_opset:
        raise refused(f"it is of opset {opset}; at least {least_opset} is needed")
    return model
