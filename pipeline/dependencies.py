"""Packages that exclude each other, or that need system libraries: said in one line, with the remedy.

``onnxruntime`` and ``onnxruntime-gpu`` install the same import name over each other, and so do
``opencv-python`` and ``opencv-python-headless``; pip can express neither.
"""

from __future__ import annotations

import importlib
from importlib import metadata

from pipeline.errors import DependencyError

RUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
)
PLUGINS = ("onnxruntime-ep-openvino",)
"""Providers for an ONNX Runtime that is installed already."""
OPENCVS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
CHOICES = "framerail[cpu], framerail[gpu] or framerail[edge]"


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """The distributions of ``names`` that are installed, with their versions."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def check() -> None:
    """Raise DependencyError unless NumPy, exactly one ONNX Runtime and an OpenCV that load are there."""
    runtimes = installed(RUNTIMES)
    if len(runtimes) > 1:
        raise DependencyError(
            f"{' and '.join(runtimes)} are installed together and overwrite each other (CUDA can vanish): "
            f"pip uninstall -y {' '.join(runtimes)}, then install one of {CHOICES}"
        )
    # Before those two, which import it from C++ and print a KeyboardInterrupt's traceback there.
    _load("numpy", f"NumPy is not installed: install {CHOICES}")
    _load("onnxruntime", f"ONNX Runtime is not installed: install {CHOICES}")
    _load("cv2", f"OpenCV is not installed: install {CHOICES}")


def _load(module: str, missing: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise DependencyError(missing) from None
        raise DependencyError(f"{module} cannot be loaded: {error}; reinstall one of {CHOICES}") from None
    except ImportError as error:
        remedy = f"reinstall one of {CHOICES}"
        if module == "cv2":
            remedy = (
                "this system lacks a library that opencv-python needs for windows: "
                f"pip uninstall -y {' '.join(installed(OPENCVS)) or 'opencv-python'} && pip install "
                "opencv-python-headless (that is framerail[edge]), or install libgl1 and libglib2.0-0"
            )
        raise DependencyError(f"{module} cannot be loaded: {error}; {remedy}") from None
