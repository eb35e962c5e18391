"""The peers: what each is, the environment that it needs, and the adapter that runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OURS, REFERENCE, TUNED = "framerail", "plain", "tuned"
"""Whose rate is divided by the others', whose detections are the measure of all, and framerail once
more, with another model."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment. The versions of all that gets into it stand in ``constraints/NAME.txt``."""

    name: str
    requirements: tuple[str, ...]
    check: str
    """Modules whose import shows that it works, as in an import statement."""

    @property
    def constraints(self) -> Path:
        """The file with the versions."""
        return HERE / "constraints" / f"{self.name}.txt"

    def python(self, venvs: Path) -> Path:
        """Its interpreter."""
        return venvs / self.name / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def failure(self, venvs: Path) -> Path:
        """The file that says why it could not be made."""
        return venvs / f"{self.name}.failed"


_PLAIN = ("onnxruntime", "opencv-python", "numpy")
ENVIRONMENTS: Mapping[str, Environment] = {
    each.name: each
    for each in (
        Environment("plain", _PLAIN, "cv2, onnxruntime"),
        Environment("supervision", ("supervision", *_PLAIN), "supervision, cv2, onnxruntime"),
        Environment("openvino", ("openvino", "opencv-python", "numpy"), "openvino, cv2"),
        # onnx because Ultralytics installs it by itself, at the first run, where it is missing.
        Environment(
            "ultralytics",
            ("ultralytics", "onnx", *_PLAIN),
            "torchvision.ops, cv2, onnxruntime",
        ),
        Environment("roboflow", ("inference",), "torchvision.ops, inference, cv2, onnxruntime"),
    )
}


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run the model over the clip; ``environment`` None: the one that this runs in."""

    name: str
    what: str
    adapter: str
    environment: Environment | None
    bound: bool = False
    """No peer that one could use instead, but what another runtime makes possible."""
    differs: str = ""
    """The good reason, where its detections are not those of the plain loop."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Added to its environment."""
    model: str | None = None
    """Another one than all others have."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Keys of framerail's Config."""

    def python(self, venvs: Path) -> Path:
        """Its interpreter."""
        return Path(sys.executable) if self.environment is None else self.environment.python(venvs)

    @property
    def script(self) -> Path:
        """Its adapter."""
        return HERE / "adapters" / f"{self.adapter}.py"


# No usage statistics, no look for updates, nothing installed behind one's back while measuring.
_QUIET_ULTRALYTICS = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
_QUIET_ROBOFLOW = {"OFFLINE_MODE": "True", "METRICS_ENABLED": "False", "DISABLE_VERSION_CHECK": "True"}

PEERS: Mapping[str, Peer] = {
    each.name: each
    for each in (
        Peer(OURS, "framerail run, JSON Lines", "framerail_run", None, variables={"PYTHONPATH": str(ROOT)}),
        Peer(REFERENCE, "VideoCapture, session.run, NMS", "plain", ENVIRONMENTS["plain"]),
        Peer(
            "ultralytics",
            "Ultralytics predict(stream=True)",
            "ultralytics_predict",
            ENVIRONMENTS["ultralytics"],
            variables=_QUIET_ULTRALYTICS,
        ),
        Peer(
            "roboflow",
            "Roboflow InferencePipeline, plain's callback",
            "roboflow_pipeline",
            ENVIRONMENTS["roboflow"],
            variables=_QUIET_ROBOFLOW,
        ),
        Peer(
            "supervision",
            "supervision's frames, Detections and NMS",
            "supervision_loop",
            ENVIRONMENTS["supervision"],
        ),
        Peer("opencv", "OpenCV alone: cv2.dnn", "opencv_dnn", ENVIRONMENTS["plain"]),
        Peer(
            "openvino",
            "OpenVINO AsyncInferQueue, float32",
            "openvino_async",
            ENVIRONMENTS["openvino"],
            bound=True,
        ),
    )
}
