"""A model made ready to be quantised, and what is written into the copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper, version_converter

from pipeline.errors import ModelError
from pipeline.quantization.structure import Structure, name_nodes
from pipeline.runtime.operators import quantised
from pipeline.runtime.optimised import write_optimised

_OPSET = 13
"""The first whose QuantizeLinear has an axis, which weights per channel need."""
_IR = 4
"""The first that does not want weights among the inputs, where nothing can be taken for constant."""
_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Prepared:
    """``path``: a float32 file of opset 13 or later, simplified, typed, with a name for each node."""

    path: Path
    structure: Structure

    def load(self) -> onnx.ModelProto:
        """A model of one's own to change."""
        return onnx.load(str(self.path))


def prepare(source: Path, folder: Path) -> Prepared:
    """Make ``source`` ready, in ``folder``. Raises ModelError, with the remedy, where it cannot be."""
    already = quantised(source)
    if already:
        raise ModelError(f"model {source.name} is quantised already, {already}; give the float32 file")
    try:
        model = onnx.load(str(source))
    except Exception as error:  # onnx raises whatever its parser does
        raise ModelError(f"cannot read model {source.name} with the package onnx: {error}") from None
    if model.ByteSize() > _LIMIT:
        raise ModelError(f"model {source.name} is over 2 GiB, which is more than one ONNX file can hold")
    if any(tensor.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.input):
        raise ModelError(f"model {source.name} takes float16 already; give the float32 file")
    _free_weights(model)
    given, plain, typed = (folder / f"{name}.onnx" for name in ("given", "plain", "typed"))
    onnx.save(_modern(model, source), given)
    write_optimised(given, plain)
    onnx.shape_inference.infer_shapes_path(str(plain), str(typed))
    model = onnx.load(str(typed))
    name_nodes(model.graph.node)
    onnx.save(model, typed)
    return Prepared(typed, Structure(model.graph))


def stamped(model: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """The bytes of ``model`` with these metadata instead of its own; equal ones for equal models."""
    del model.metadata_props[:]
    helper.set_model_props(model, dict(sorted(metadata.items())))
    return bytes(model.SerializeToString(deterministic=True))


def _free_weights(model: onnx.ModelProto) -> None:
    """Exports of old list weights among the inputs: then they could be fed, and are no constants."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [tensor for tensor in model.graph.input if tensor.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _IR)


def _modern(model: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset >= _OPSET:
        return model
    try:
        return version_converter.convert_version(model, _OPSET)
    except Exception as error:  # its own ConvertError, or what the C++ library throws
        raise ModelError(
            f"model {source.name} has opset {opset} and cannot be brought to {_OPSET}, which int8 per "
            f"channel needs ({' '.join(str(error).split())[:200]}); "
            f"export it again with opset {_OPSET} or later"
        ) from None
