"""Ultralytics' own answers for detection exports: YOLOv8, YOLOv5u, YOLOv9, YOLO11, YOLO12 and YOLOv6.

Made with ultralytics 8.4.190, torch 2.13.0 (CPU) and onnxruntime 1.31.1, in an environment of its own:

    python tests/authors/yolov8_exports.py

Models are built from the package's own descriptions with random weights, exported to ONNX by the
package, and run on random pixels; what comes out is decoded by the package (``non_max_suppression``)
without suppression (an IoU threshold of 1) and with it. Writes yolov8.npz beside this file.
"""

import ast
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import torch
import ultralytics
import yaml
from ultralytics import YOLO
from ultralytics.utils import nms

HEIGHT, WIDTH = 64, 96
CONF, IOU = 0.05, 0.7
MODELS = {
    "yolov8n": "yolov8",
    "yolov5nu": "yolov5",
    "yolov6n": "yolov6",
    "yolov9t": "yolov9t",
    "yolo11n": "yolo11",
    "yolo12n": "yolo12",
}

# The package takes torchvision's NMS where that is loaded, else its own, which gives the same.
nms.sys = SimpleNamespace(modules={})


def export(name: str, described: str, folder: Path) -> Path:
    """The package's description of a model with 3 classes and random weights, as ONNX."""
    found = next(Path(ultralytics.__file__).parent.glob(f"cfg/models/**/{described}.yaml"))
    content = yaml.safe_load(found.read_text()) | {"nc": 3}
    path = folder / f"{name.removesuffix('u')}.yaml"
    path.write_text(yaml.safe_dump(content))
    torch.manual_seed(8)
    model = YOLO(str(path))
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for module in model.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.copy_(0.8 + 0.4 * torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
        for branch in ("cv2", "cv3"):
            for level in getattr(model.model.model[-1], branch):
                last = [m for m in level.modules() if isinstance(m, torch.nn.Conv2d)][-1]
                last.weight.mul_(8)
                if branch == "cv3":
                    last.bias.fill_(-1.5)
    return Path(model.export(format="onnx", imgsz=(HEIGHT, WIDTH), simplify=False, verbose=False))


def main() -> None:
    """Write the file."""
    stored = {}
    for name, described in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            session = onnxruntime.InferenceSession(export(name, described, Path(folder)))
        metadata = session.get_modelmeta().custom_metadata_map
        pixels = np.random.default_rng(8).random((1, 3, HEIGHT, WIDTH), np.float32)
        (output,) = session.run(None, {session.get_inputs()[0].name: pixels})
        values = {
            "output": output,
            "metadata": np.array(repr({k: metadata[k] for k in ("task", "names", "imgsz")})),
        }
        for when, iou in (("before", 1.0), ("after", IOU)):
            table = torch.from_numpy(output.copy())
            classes = len(ast.literal_eval(metadata["names"]))
            found = nms.non_max_suppression(table, CONF, iou, nc=classes, max_det=300)[0].numpy()
            values |= {
                f"{when}_boxes": found[:, :4],
                f"{when}_scores": found[:, 4],
                f"{when}_classes": found[:, 5],
            }
        stored |= {f"{name}_{key}": value for key, value in values.items()}
        print(
            name, output.shape, len(values["before_boxes"]), len(values["after_boxes"]), output[0, 4:].max()
        )
    path = Path(__file__).with_name("yolov8.npz")
    np.savez_compressed(path, **stored)
    print(path.stat().st_size)


if __name__ == "__main__":
    main()
