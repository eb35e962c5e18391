"""A model as ONNX Runtime simplifies it, written to a file: constants folded, additions and batch
normalisations taken into the convolutions before them."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from pipeline.errors import ModelError


def write_optimised(path: Path, target: Path, data: bytes | None = None) -> None:
    """Write what the optimisations that keep to ONNX's operators (``ORT_ENABLE_BASIC``) make of ``path``.

    ``data`` is what is taken in the place of the file's content.

    This is what the vendor advises before quantisation. Its own ``quant_pre_process`` does the same, but
    with ``skip_symbolic_shape=True`` (else it needs sympy) throws the result away (onnxruntime 1.28).
    Raises ModelError for a model that cannot be loaded.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors reach us as exceptions, once
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.intra_op_num_threads = 1
    try:
        ort.InferenceSession(
            data or str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime {ort.__version__} cannot simplify model {path.name}: {error}"
        ) from None
