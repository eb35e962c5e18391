"""Which exceptions of a run say that the provider failed, not that the call was wrong."""

from __future__ import annotations

from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

_FAULTS: tuple[type[BaseException], ...] = (
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
