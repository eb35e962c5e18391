"""Preprocessing as part of a model's graph: pictures go in as they lie, uint8 [B, H, W, 3], BGR.

What is left outside is the resize and the pads. A blob is a quarter as large, which is a quarter of what
goes to a device, and the device casts, normalises and transposes. Why these nodes: what they add to a run
on the CPU (ONNX Runtime 1.28, one thread, medians of 50 interleaved rounds), where the ``Blobber`` saves 0.2
ms at 416 and 0.5 ms at 640 by them.

=====================================================================  ==============  ===============
.                                                                      YOLOv8n 640     NanoDet-g 416
=====================================================================  ==============  ===============
bytes transposed, planes exchanged (Gather), Cast, Sub, Div            0.2 ms          0.5 ms
Cast, then the same: elsewhere than on the CPU                         1.9 ms          1.0 ms
Cast, MatMul over the channels, Add, transpose                         2.4 ms          1.1 ms
bytes transposed, Cast, convolution of 1x1                             5.1 ms          2.0 ms
bytes transposed, Cast, the rest in the first convolution's weights    0.0 ms          not possible
=====================================================================  ==============  ===============

The last one wins 0.2 ms of 66 over the first, rounds otherwise (5e-4 pixels in YOLOv8n, where the first one's
answers are the same bit for bit), and is no way for weights that are not stored as float32, so it is not
used. On devices the bytes come to a Cast at once, because TensorRT takes them only so. Nothing in the
nodes is changed by TF32, in which a GPU may multiply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from pipeline.decoders import TensorInfo
from pipeline.errors import ModelError
from pipeline.runtime.graph_edit import Edit, made
from pipeline.runtime.onnx_messages import ModelMessage
from pipeline.runtime.rewrite import LARGEST
from pipeline.vision.letterbox import InputSpec

_LEAST_OPSET = 7
"""From here on arithmetic broadcasts, and Cast names its type by a number."""
_FLOAT32, _UINT8, _FLOAT16 = 1, 2, 10  # of TensorProto.DataType


@dataclass(frozen=True, slots=True)
class Fusion:
    """What goes into a graph. ``picture`` is the name of its input, ``spec`` how that is fed in the file."""

    picture: str
    spec: InputSpec

    @staticmethod
    def of(path: Path, image: TensorInfo, spec: InputSpec) -> Fusion:
        """What is to be fused into the model in ``path``, whose input is ``image``.

        Raises ModelError, with the reason, where it cannot be.
        """
        fusion = Fusion(image.name, spec)
        if spec.dtype == np.uint8:
            raise _refused(path, "its input takes the pixels themselves (uint8) already")
        if len(image.shape) != 4:
            raise _refused(path, f"its input has no batch axis: {image}")
        _readable(path, image.name)
        return fusion

    @property
    def fed(self) -> InputSpec:
        """How the graph is fed then."""
        return replace(
            self.spec, dtype=np.dtype(np.uint8), layout="NHWC", color="BGR", mean=(0.0,) * 3, std=(1.0,) * 3
        )

    def applied(self, path: Path, *, on_cpu: bool) -> bytes:
        """The content of the model in ``path`` with the nodes before its input. Raises ModelError.

        Values are those that a ``Blobber`` makes for ``spec``, to the rounding of float32, then to float16
        for a model that takes that.
        """
        model = _readable(path, self.picture)
        graph = model.graph
        fresh = Edit(graph).fresh
        pixels = next(each for each in graph.input if each.name == self.picture)
        pixels.name = fresh(f"{self.picture}/pixels")
        pixels.type.tensor_type.elem_type = _UINT8
        sides = pixels.type.tensor_type.shape.dim
        batch, *inner = [type(side).FromString(side.SerializeToString()) for side in sides]
        height, width = inner[:2] if self.spec.layout == "NHWC" else inner[1:]
        del sides[:]
        sides.extend([batch, height, width])
        sides.add(dim_value=3)
        first = [*self._nodes(pixels.name, fresh, on_cpu=on_cpu), *graph.node]
        del graph.node[:]
        graph.node.extend(first)
        data: bytes = model.SerializeToString()
        return data

    def _nodes(self, name: str, fresh: Callable[[str], str], *, on_cpu: bool) -> Iterator[Any]:
        """From the pixels, ``name``, to what the file's input was."""
        steps = list(self._steps(on_cpu=on_cpu))
        for number, (operator, constant, attributes) in enumerate(steps):
            inputs = [name]
            if constant is not None:
                # A node: before version 4 of the format an initializer had to be an input as well.
                inputs.append(fresh(f"{self.picture}/fused.constant{number}"))
                yield made("Constant", [], inputs[-1], value=constant)
            last = number == len(steps) - 1
            name = self.picture if last else fresh(f"{self.picture}/fused.{number}")
            yield made(operator, inputs, name, **attributes)

    def _steps(self, *, on_cpu: bool) -> Iterator[tuple[str, NDArray[Any] | None, dict[str, Any]]]:
        """Operators with their constant and attributes, one after the other."""
        spec = self.spec
        planes = spec.layout == "NCHW"
        cast = ("Cast", None, {"to": _FLOAT32})
        if planes:
            arranged: list[tuple[str, NDArray[Any] | None, dict[str, Any]]] = [
                ("Transpose", None, {"perm": [0, 3, 1, 2]})
            ]
            if spec.color == "RGB":
                arranged.append(("Gather", np.array([2, 1, 0]), {"axis": 1}))
            yield from (*arranged, cast) if on_cpu else (cast, *arranged)
        else:
            yield cast
            if spec.color == "RGB":  # of noughts and ones: exact in any precision, and faster than Gather
                yield "MatMul", np.eye(3, dtype=np.float32)[::-1], {}
        shape = (1, 3, 1, 1) if planes else (1, 1, 1, 3)
        if any(spec.mean):
            yield "Sub", np.array(spec.mean, np.float32).reshape(shape), {}
        if set(spec.std) != {1.0}:
            yield "Div", np.array(spec.std, np.float32).reshape(shape), {}
        if spec.dtype == np.float16:
            yield "Cast", None, {"to": _FLOAT16}


def _readable(path: Path, picture: str) -> Any:
    """The model in ``path`` as a message. Raises ModelError where its graph cannot be edited."""
    size = path.stat().st_size
    if size > LARGEST:
        raise _refused(path, f"it has {size:,} bytes, and graphs are edited up to {LARGEST:,}")
    try:
        model = ModelMessage.FromString(path.read_bytes())
    except DecodeError:
        raise _refused(path, "its file is not in ONNX's own format") from None
    if picture not in {each.name for each in model.graph.input}:
        raise _refused(path, f"its file does not declare the input {picture!r}")
    if any(tensor.data_location for tensor in model.graph.initializer):
        raise _refused(path, "its weights lie in files beside it; save it as one file")
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)
    if opset < _LEAST_OPSET:
        raise _refused(path, f"it is of opset {opset}; at least {_LEAST_OPSET} is needed")
    return model


def _refused(path: Path, why: str) -> ModelError:
    return ModelError(f"preprocessing cannot be fused into model {path.name}: {why}; leave out fuse (--fuse)")
