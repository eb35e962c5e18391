"""Where TensorRT's engines are kept: a folder for each thing that makes one unfit for another.

ONNX Runtime names an engine's file after the graph, so it may take the engine of another static
shape, or one that another version built, for its own. A folder's name therefore says it all: the
model's hash, the shape it is fed, the GPU, and the versions of ONNX Runtime and TensorRT.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import re
from importlib import metadata
from pathlib import Path

import onnxruntime as ort

from pipeline.caches import cache_folder
from pipeline.errors import ProviderError

FOLDER_VARIABLE = "FRAMERAIL_ENGINES"
_TENSORRT = ("tensorrt-cu13", "tensorrt-cu12", "tensorrt")
_NAME_BYTES = 256


def engine_folder(
    model: Path | bytes, shape: str, device: int, *, gpu: str | None = None, tensorrt: str | None = None
) -> Path:
    """The folder of the engines of ``model``, a file or its content, fed so, on GPU ``device``; it is made
    if need be.

    ``gpu`` and ``tensorrt`` are its name and TensorRT's version, None: as this machine says. Raises
    ProviderError where the folder cannot be made.
    """
    with io.BytesIO(model) if isinstance(model, bytes) else model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
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
    library = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return "unknown"
    handle, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(handle), device)
        or driver.cuDeviceGetName(name, _NAME_BYTES, handle)
    )
    return "unknown" if failed else name.value.decode("utf-8", "replace")


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
    return "unknown"
