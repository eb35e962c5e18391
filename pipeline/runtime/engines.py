"""Where TensorRT's engines are kept: a folder for each thing that makes one unfit for another.

ONNX Runtime names an engine's file after the graph, so it may take the engine of another static
shape, or one that another version built, for its own. A folder's name therefore says it all: the
model's hash, the shape it is fed, the GPU, and the versions of ONNX Runtime and TensorRT.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
from importlib import metadata
from pathlib import Path

import onnxruntime as ort

from pipeline.caches import cache_folder
from pipeline.errors import ProviderError
from pipeline.runtime.hashing import model_sha256

FOLDER_VARIABLE = "FRAMERAIL_ENGINES"
_TENSORRT = ("tensorrt-cu13", "tensorrt-cu12", "tensorrt")
_NAME_BYTES = 256
_DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"

UNKNOWN = "unknown"
"""What no driver and no package tells."""


def engine_folder(
    model: Path | bytes, shape: str, device: int, *, gpu: str | None = None, tensorrt: str | None = None
) -> Path:
    """The folder of the engines of ``model``, a file or its content, fed so, on GPU ``device``; it is made
    if need be.

    ``gpu`` and ``tensorrt`` are its name and TensorRT's version, None: as this machine says. Raises
    ProviderError where the folder cannot be made.
    """
    digest = hashlib.sha256(model).hexdigest() if isinstance(model, bytes) else model_sha256(model)
    parts = (
        digest[:16],
        shape or "as-declared",
        gpu or gpu_name(device),
        f"ort{ort.__version__}",
        f"trt{tensorrt or tensorrt_version()}",
    )
    folder = _root() / "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", part) for part in parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProviderError(
            f"cannot make the folder for TensorRT's engines, {folder}: {error.strerror}; "
            f"name another by {FOLDER_VARIABLE}"
        ) from None
    return folder


def _root() -> Path:
    folder = cache_folder("engines", FOLDER_VARIABLE)
    if folder is None:
        raise ProviderError(f"this user has no home folder for engines; name one by {FOLDER_VARIABLE}")
    return folder


def gpu_name(device: int) -> str:
    """The name of CUDA's GPU number ``device``, as its driver says; "unknown" without a driver.

    The driver API (cuDeviceGetName) counts as the provider does: CUDA_VISIBLE_DEVICES applies.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return UNKNOWN
    handle, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(handle), device)
        or driver.cuDeviceGetName(name, _NAME_BYTES, handle)
    )
    return UNKNOWN if failed else name.value.decode("utf-8", "replace")


def gpus() -> list[str]:
    """The names of all of CUDA's GPUs, as :func:`gpu_name`; none without a driver."""
    names: list[str] = []
    while (name := gpu_name(len(names))) != UNKNOWN:
        names.append(name)
    return names


def driver_version() -> str:
    """The CUDA that the driver has (cuDriverGetVersion), as 12.8; "unknown" without one."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return UNKNOWN
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)):
        return UNKNOWN
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def tensorrt_version() -> str:
    """TensorRT's version as pip or its library (getInferLibVersion) says; else "unknown"."""
    for package in _TENSORRT:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    for library in ("libnvinfer.so.10", "nvinfer_10.dll"):
        try:
            return str(ctypes.CDLL(library).getInferLibVersion())
        except (OSError, AttributeError):
            continue
    return UNKNOWN
