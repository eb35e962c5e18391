"""Page-locked host memory, which a GPU reads by itself, without a copy by the driver in between.

ONNX Runtime's Python has no allocator for it beside a classic CUDA session, so CUDA's runtime locks the
pages of an ordinary array (cudaHostRegister) and unlocks them when the array goes.
"""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

_LIBRARIES = (
    ("cudart64_13.dll", "cudart64_12.dll") if os.name == "nt" else ("libcudart.so.13", "libcudart.so.12")
)
_PORTABLE = 1
"""cudaHostRegisterPortable: locked for every device's context."""


@lru_cache(maxsize=1)
def cuda_runtime() -> Any:
    """CUDA's runtime library, which the provider has loaded; None where there is none, said once."""
    for name in _LIBRARIES:
        try:
            runtime = ctypes.CDLL(name)
        except OSError:
            continue
        runtime.cudaHostRegister.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]
        runtime.cudaHostUnregister.argtypes = [ctypes.c_void_p]
        return runtime
    log.info("host buffers are not page-locked: found none of %s", ", ".join(_LIBRARIES))
    return None


def pinned_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], bool]:
    """Zeros, and whether their pages are locked; where they cannot be, ordinary ones."""
    array = np.zeros(shape, dtype)
    runtime = cuda_runtime()
    if runtime is None or not array.nbytes:
        return array, False
    if error := runtime.cudaHostRegister(array.ctypes.data, array.nbytes, _PORTABLE):
        log.info("a host buffer of %d bytes is not page-locked: CUDA error %d", array.nbytes, error)
        return array, False
    # Called before the array's memory is given back.
    weakref.finalize(array, runtime.cudaHostUnregister, array.ctypes.data)
    return array, True
