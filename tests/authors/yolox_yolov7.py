"""YOLOX's own answers for its export, and the rows that YOLOv7's NMS module gives.

Made with yolox 0.3.0 (Megvii), yolov7detect 1.0.1 (YOLOv7's code as a package), torch 2.13.0 (CPU) and
onnxruntime 1.31.1, in an environment of its own with both source distributions on PYTHONPATH:

    python tests/authors/yolox_yolov7.py

YOLOX-nano is built with random weights, exported undecoded as ``tools/export_onnx.py`` does, and run on
random pixels; ``YOLOXHead.decode_outputs`` and ``postprocess`` take the same tensor. YOLOv7's ``ONNX_ORT``
module (``export.py --end2end --max-wh``) is exported alone and run on a random table of boxes, objectness
and classes: the rows are the exported graph's own, the table is kept to say what they stand for. Of
torchvision, which has no build for this torch, only greedy NMS is wanted; a plain loop stands in.
Writes yolox.npz and yolov7_end2end.npz beside this file.
"""

import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import torch

HEIGHT, WIDTH, CLASSES = 64, 96, 3
CONF, IOU, WIDEST = 0.05, 0.45, 640


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


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, kinds: torch.Tensor, iou: float) -> torch.Tensor:
    """The same for each class by itself."""
    return greedy_nms(boxes + kinds[:, None] * 10_000, scores, iou)


class _Anything(ModuleType):
    """Stands for a module of which only the import is wanted."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


WANTED_BY_IMPORTS = [
    *(f"torchvision{part}" for part in ("", ".ops", ".transforms", ".utils")),
    *(f"pycocotools{part}" for part in ("", ".coco", ".cocoeval", ".mask")),
    *("seaborn", "thop", "torch.utils.tensorboard", "tensorboard", "yolov7.utils.google_utils"),
]
for _name in WANTED_BY_IMPORTS:
    sys.modules[_name] = _Anything(_name)
sys.modules["torchvision"].ops = sys.modules["torchvision.ops"]
sys.modules["torchvision.ops"].nms = greedy_nms
sys.modules["torchvision.ops"].batched_nms = batched_nms


def exported(model: torch.nn.Module, given: torch.Tensor) -> np.ndarray:
    """The output of the ONNX export, run by ONNX Runtime."""
    file = io.BytesIO()
    # YOLOv7's module works in place.
    torch.onnx.export(model, given.clone(), file, opset_version=17, input_names=["given"], dynamo=False)
    (output,) = onnxruntime.InferenceSession(file.getvalue()).run(None, {"given": given.numpy()})
    return output


def yolox() -> dict[str, np.ndarray]:
    """YOLOX-nano's raw table, and what the package makes of it."""
    from yolox.models import YOLOPAFPN, YOLOX, YOLOXHead
    from yolox.utils import postprocess

    torch.manual_seed(6)
    widths = [256, 512, 1024]
    head = YOLOXHead(CLASSES, 0.25, in_channels=widths, depthwise=True)
    model = YOLOX(YOLOPAFPN(0.33, 0.25, in_channels=widths, depthwise=True), head).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.3)
        for convs in (head.cls_preds, head.obj_preds, head.reg_preds):
            for conv in convs:
                conv.weight.mul_(8)
                conv.bias.zero_()
        head.decode_in_inference = False
        pixels = torch.from_numpy(np.random.default_rng(6).random((1, 3, HEIGHT, WIDTH), np.float32) * 255)
        table = exported(model, pixels)
        head.hw = [(HEIGHT // stride, WIDTH // stride) for stride in head.strides]
        decoded = head.decode_outputs(torch.from_numpy(table.copy()), "torch.FloatTensor")
    stored = {"output": table, "decoded": decoded.numpy()}
    for when, iou in (("before", 1.0), ("after", IOU)):
        found = postprocess(decoded.clone(), CLASSES, CONF, iou)[0].numpy()
        stored |= {
            f"{when}_boxes": found[:, :4],
            f"{when}_scores": found[:, 4] * found[:, 5],
            f"{when}_classes": found[:, 6],
        }
    return stored


def yolov7() -> dict[str, np.ndarray]:
    """A random table and the rows that the exported module gives for it."""
    from yolov7.models.experimental import ONNX_ORT

    generator = np.random.default_rng(7)
    table = generator.random((1, 200, 5 + CLASSES), np.float32)
    table[..., :4] *= (WIDTH, HEIGHT, 40, 40)
    module = ONNX_ORT(100, IOU, CONF, WIDEST, torch.device("cpu"), CLASSES)
    return {"table": table, "output": exported(module, torch.from_numpy(table.copy()))}


def main() -> None:
    """Write both files."""
    for name, stored in (("yolox", yolox()), ("yolov7-end2end", yolov7())):
        path = Path(__file__).with_name(f"{name}.npz")
        np.savez_compressed(path, **stored)
        print(name, {key: value.shape for key, value in stored.items()}, path.stat().st_size)


if __name__ == "__main__":
    main()
