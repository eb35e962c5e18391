"""Which exceptions of a run say that the provider failed, not that the call was wrong."""

from __future__ import annotations

from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors


class BoundRunError(RuntimeError):
    """A run with I/O binding that failed, or its buffers: ONNX Runtime raises a plain RuntimeError for those,
    whatever went wrong, and classes of its own for a run with arrays alone."""


_FAULTS: tuple[type[BaseException], ...] = (
    BoundRunError,
    MemoryError,
    *(
        kind
        for name in ("Fail", "RuntimeException", "EPFail", "EngineError", "DeviceReset")
        if isinstance(kind := getattr(ort_errors, name, None), type)
    ),
)


def is_provider_fault(error: BaseException) -> bool:
    """Whether a fresh session may do better: the device was lost or reset, or had no memory left."""
    return isinstance(error, _FAULTS)
