"""framerail: real-time object detection on video that accounts for every frame.

::

    from pipeline import Detector, Pipeline

    with Pipeline("rtsp://camera/stream") as line:          # see pipeline.app
        for result in line:
            print(result.stream, result.frame.seq, result.detections.labels)

    detections = Detector("nanodet-g").detect(image_bgr)    # see pipeline.detector
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ONNX Runtime's official builds send usage to their maker unless told not to before they are loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Config": "pipeline.config",
    "Detections": "pipeline.detections",
    "Detector": "pipeline.detector",
    "Frame": "pipeline.frame",
    "load_config": "pipeline.configfile",
    "make_config": "pipeline.config",
    "Pipeline": "pipeline.app",
    "PipelineError": "pipeline.errors",
    "Result": "pipeline.frame",
    "Sink": "pipeline.sinks",
    "StreamConfig": "pipeline.config",
    "draw": "pipeline.vision.draw",
    "summarize": "pipeline.summary",
}
__all__ = [
    "Config",
    "Detections",
    "Detector",
    "Frame",
    "Pipeline",
    "PipelineError",
    "Result",
    "Sink",
    "StreamConfig",
    "__version__",
    "draw",
    "load_config",
    "make_config",
    "summarize",
]

if TYPE_CHECKING:
    from pipeline.app import Pipeline
    from pipeline.config import Config, StreamConfig, make_config
    from pipeline.configfile import load_config
    from pipeline.detections import Detections
    from pipeline.detector import Detector
    from pipeline.errors import PipelineError
    from pipeline.frame import Frame, Result
    from pipeline.sinks import Sink
    from pipeline.summary import summarize
    from pipeline.vision.draw import draw


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, after a check of the packages that it needs.

    So ``framerail doctor`` and ``--help`` work, and quickly, on a machine where OpenCV or ONNX
    Runtime cannot be loaded. Raises DependencyError with the remedy there.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("Detector", "Pipeline", "Sink", "draw", "summarize"):
        from pipeline import dependencies

        dependencies.check()
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
