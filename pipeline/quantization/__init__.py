"""Smaller copies of a model: int8 for CPUs, float16 for GPUs.

Needs the package ``onnx``, which ``framerail[convert]`` brings, and ``onnxruntime.quantization``, which is
part of ONNX Runtime. Import :mod:`pipeline.quantization.prepared` and its neighbours after
:func:`check_tools`. The copies need neither.

What a copy is and what it has lost stands in its metadata, under ``framerail.quantized``: a JSON object
with ``precision``, ``source`` (name and sha256 of the file it was made from), ``made_by``, ``measured``,
and how; see ``copies.quantize``.
"""

from __future__ import annotations

import importlib

from pipeline.errors import DependencyError

_TOOLS = ("onnx", "onnxruntime.quantization", "onnxruntime.transformers.float16")


def check_tools() -> None:
    """Raise DependencyError where what quantisation needs cannot be loaded."""
    for tool in _TOOLS:
        try:
            importlib.import_module(tool)
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            if isinstance(error, ModuleNotFoundError) and missing == "onnx":
                raise DependencyError(
                    "quantising models needs the package onnx, which is not installed; "
                    "install it with: pip install 'framerail[convert]'"
                ) from None
            raise DependencyError(
                f"quantising models needs {tool}, which cannot be loaded ({error}); reinstall onnxruntime"
            ) from None
