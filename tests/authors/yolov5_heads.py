"""YOLOv5's own answers, for its decoded export and for its raw heads (P5 and P6).

Made with the package yolov5 7.0.14 (the repository's v7.0), torch 2.13.0 (CPU) and onnxruntime 1.31.1,
in an environment of its own:

    python tests/authors/yolov5_heads.py

Models are built from the package's own descriptions with random weights, exported to ONNX as its
``export.py`` does, and run on random pixels. The package decodes (``Detect.forward``) and suppresses
(``non_max_suppression``) the same pixels. It wants torchvision for one function, greedy NMS, of which
there is no build for this torch: a plain loop stands in. Writes yolov5.npz and yolo_anchors.npz
beside this file.
"""

import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import torch


def greedy_nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Indices of the boxes that no better one overlaps by more than ``iou_threshold``."""
    kept: list[int] = []
    for index in torch.argsort(scores, descending=True).tolist():
        x0, y0, x1, y1 = boxes[index].tolist()
        for other in kept:
            a0, b0, a1, b1 = boxes[other].tolist()
            common = max(0.0, min(x1, a1) - max(x0, a0)) * max(0.0, min(y1, b1) - max(y0, b0))
            if common > iou_threshold * ((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - common):
                break
        else:
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long)


class _Anything(ModuleType):
    """Stands for a module of which only the import is wanted."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: None


def _stand_in() -> None:
    names = ["torchvision", *(f"torchvision.{part}" for part in ("ops", "datasets", "transforms"))]
    names.append("torchvision.transforms.functional")
    for name in names:
        sys.modules[name] = _Anything(name)
        parent, _, part = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], part, sys.modules[name])
    sys.modules["torchvision"].__version__ = "0"
    sys.modules["torchvision.datasets"].ImageFolder = object
    sys.modules["torchvision.ops"].nms = greedy_nms


_stand_in()
for missing in ("seaborn", "fire", "boto3", "sahi", "huggingface_hub", "roboflow"):
    sys.modules.setdefault(missing, _Anything(missing))
import yolov5  # noqa: E402
from yolov5.models.yolo import DetectionModel  # noqa: E402
from yolov5.utils.general import non_max_suppression  # noqa: E402

CONF, IOU = 0.05, 0.45


def built(name: str, classes: int, gain: float) -> DetectionModel:
    """The package's description with random weights whose scores are neither all 0 nor all alike."""
    torch.manual_seed(5)
    model = DetectionModel(str(next(Path(yolov5.__file__).parent.rglob(f"{name}.yaml"))), ch=3, nc=classes)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.copy_(0.8 + 0.4 * torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
        for head in model.model[-1].m:
            head.weight.mul_(gain)
            head.bias.zero_()
            head.bias.view(3, -1)[:, 4] = -1.5
    return model.eval()


def exported(model: torch.nn.Module, pixels: torch.Tensor, names: list[str]) -> list[np.ndarray]:
    """The outputs of the ONNX export, run by ONNX Runtime."""
    file = io.BytesIO()
    torch.onnx.export(
        model, pixels, file, opset_version=17, input_names=["images"], output_names=names, dynamo=False
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    return session.run(None, {"images": pixels.numpy()})


class Raw(torch.nn.Module):
    """The heads before anything is done to them, as ``export.py --train`` gives them."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.model.model[-1].training = True
        return tuple(self.model(pixels))


def decoded(detect: torch.nn.Module, raw: list[np.ndarray]) -> torch.Tensor:
    """The package's table for raw heads: its head without the convolutions that have run already."""
    maps = [torch.from_numpy(m).permute(0, 1, 4, 2, 3).flatten(1, 2) for m in raw]
    detect.m = torch.nn.ModuleList(torch.nn.Identity() for _ in maps)
    detect.training, detect.export = False, False
    return detect(maps)[0]


def answers(table: torch.Tensor) -> dict[str, np.ndarray]:
    """Boxes, scores and classes before NMS (an IoU threshold of 1) and after it."""
    stored = {}
    for when, iou in (("before", 1.0), ("after", IOU)):
        found = non_max_suppression(table.clone(), CONF, iou, max_det=3000)[0].numpy()
        stored |= {
            f"{when}_boxes": found[:, :4],
            f"{when}_scores": found[:, 4],
            f"{when}_classes": found[:, 5],
        }
    return stored


def main() -> None:
    """Write both files."""
    here, stored = Path(__file__).parent, {}
    # The deep levels of the larger one hardly vary otherwise, and equal scores come in any order.
    for label, name, size, gain in (("p5", "yolov5n", (64, 96), 6), ("p6", "yolov5n6", (64, 128), 60)):
        model = built(name, 3, gain)
        detect = model.model[-1]
        pixels = torch.from_numpy(np.random.default_rng(5).random((1, 3, *size), np.float32))
        with torch.no_grad():
            detect.export = True
            (table,) = exported(model, pixels, ["output0"])
            raw = exported(Raw(model), pixels, [f"output{i}" for i in range(detect.nl)])
            expected = answers(torch.from_numpy(table))
            from_raw = answers(decoded(detect, raw))
        if label == "p5":
            np.savez_compressed(here / "yolov5.npz", output0=table, **expected)
        maps = {f"{label}_output{i}": array for i, array in enumerate(raw)}
        stored |= maps | {f"{label}_{key}": value for key, value in from_raw.items()}
        print(label, table.shape, [array.shape for array in raw], {k: v.shape for k, v in expected.items()})
        print(expected["before_scores"].max())
    np.savez_compressed(here / "yolo_anchors.npz", **stored)
    print([(here / f"{name}.npz").stat().st_size for name in ("yolov5", "yolo_anchors")])


if __name__ == "__main__":
    main()
