"""Static int8 for ONNX Runtime on CPUs: activations uint8, weights int8 per channel, as QDQ.

Signed activations are slower than float32 on x86 with VNNI (68 ms against 40 for YOLOv8n-640), and so are
ranges computed at run time (38 to 43 ms); uint8 with int8 halves the time. Quantising the convolutions
alone gains little, because every activation between them is converted twice: what lies between is
quantised with them.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, create_calibrator

from pipeline.errors import ModelError
from pipeline.quantization.prepared import Prepared
from pipeline.quantization.structure import CONVOLUTIONS

Feeds = Mapping[str, NDArray[Any]]

# YOLOv8n-640 (AP .412) on 16 to 128 frames of street clips: minmax .407 to .419, percentile .415 (16); with
# its convolutions alone quantised minmax .413, percentile .411, entropy .405.
METHODS: Mapping[str, tuple[CalibrationMethod, dict[str, Any]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    # symmetric, its default, would spend half of uint8 on what a ReLU never gives.
    "percentile": (CalibrationMethod.Percentile, {"percentile": 99.999, "symmetric": False}),
    "entropy": (CalibrationMethod.Entropy, {}),
}

OPERATORS = sorted(
    CONVOLUTIONS
    | {
        "Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul",
        "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Those for which the CPU provider has an 8-bit kernel, or which only move values. MatMul is not among
them: between activations (attention) it loses more than it gains."""


def calibrated(prepared: Prepared, method: str, feeds: Iterable[Feeds], folder: Path) -> Any:
    """The range of each tensor over ``feeds``, as the quantiser takes it. Raises ModelError.

    One frame at a time: of several the calibrators keep every intermediate tensor, 250 MB each for
    YOLOv8n-640.
    """
    kind, options = METHODS[method]
    try:
        calibrator = create_calibrator(
            str(prepared.path),
            None,
            str(folder / "calibration.onnx"),
            calibrate_method=kind,
            extra_options=options,
        )
        for feed in feeds:
            # The calibrators print, to where a report in JSON goes.
            with redirect_stdout(io.StringIO()):
                calibrator.collect_data(_One(feed))
        with redirect_stdout(io.StringIO()):
            return calibrator.compute_data()
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"onnxruntime.quantization cannot calibrate the model: {error}") from None


class _One:
    """A reader of one frame, in the calibrators' form."""

    def __init__(self, feed: Feeds) -> None:
        self._left = [dict(feed)]

    def get_next(self) -> Feeds | None:
        """The frame, then None."""
        return self._left.pop() if self._left else None


def quantised_copy(
    prepared: Prepared, ranges: Any, in_float: Collection[str], only: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy with the named nodes, and the tail, in float; or with nothing quantised but ``only``.

    Raises ModelError for what the quantiser does not take.
    """
    outside = {*in_float, *prepared.structure.tail()}
    try:
        quantizer = QDQQuantizer(
            prepared.load(),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=sorted(only),
            nodes_to_exclude=sorted(outside),
            op_types_to_quantize=OPERATORS,
            extra_options={},
        )
        quantizer.quantize_model()
    except (ValueError, RuntimeError, TypeError, KeyError, NotImplementedError) as error:
        raise ModelError(f"onnxruntime.quantization cannot quantise the model: {error}") from None
    model: onnx.ModelProto = quantizer.model.model
    return model
