"""End-to-end models of Ultralytics 8.4.190 with random weights (torch 2.13.0, CPU), answered and read by it.

Writes end2end.npz beside it. Run in an environment that has ultralytics and torch (test-time only:
ultralytics is AGPL-3.0 and no part of the project): ``python tests/authors/end2end.py``. Where
torchvision's compiled operators do not load, declaring them is enough, for they are not called; the
exporter's own NMS is given by the loop below.
"""

import os
import types
from pathlib import Path

import numpy as np
import torch

HW = (64, 96)
CONF = 0.42

library = torch.library.Library("torchvision", "FRAGMENT")
if not hasattr(torch.ops.torchvision, "nms"):
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import torchvision  # noqa: E402

os.environ.setdefault("YOLO_OFFLINE", "true")  # or importing it looks for a network
from ultralytics import RTDETR, YOLO  # noqa: E402
from ultralytics.engine.exporter import NMSModel  # noqa: E402
from ultralytics.models.rtdetr.predict import RTDETRPredictor  # noqa: E402
from ultralytics.utils.nms import non_max_suppression  # noqa: E402


def nms_by_loop(dets, scores, iou_threshold):
    overlaps = torchvision.ops.box_iou(dets, dets)
    kept = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if all(overlaps[index, other] <= iou_threshold for other in kept):
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


if not torchvision.extension._has_ops():
    library.impl("nms", nms_by_loop, "CPU")
    torchvision.ops.boxes._assert_has_ops = lambda: None


def of(model, seed, picture, std=0.03):
    """A network with random weights whose answers differ: normalised to the picture, biases at random."""
    torch.manual_seed(seed)
    network = model.model
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
        classes = getattr(module, "out_channels", None) or getattr(module, "out_features", None)
        if classes == 80 and module.bias is not None:
            torch.nn.init.normal_(module.weight, std=std)
            torch.nn.init.normal_(module.bias, mean=-3.0)
        elif classes == 4 and isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=std)
    if "RTDETR" not in type(model).__name__:
        network.train()
        network(torch.cat([picture, 1 - picture]))
    network.eval()
    head = network.model[-1]
    head.export, head.format = True, "onnx"
    return network


def main():
    picture = torch.rand(1, 3, *HW, generator=torch.Generator().manual_seed(0))
    saved = {"hw": np.array(HW), "conf": np.array(CONF)}
    with torch.no_grad():
        for name, file in (("yolov10", "yolov10n.yaml"), ("yolo26", "yolo26n.yaml")):
            network = of(YOLO(file), 1, picture, 0.003 if name == "yolov10" else 0.03)
            head = network.model[-1]
            head._end2end, head.max_det = True, 60
            raw = network(picture)
            raw = raw[0] if isinstance(raw, (tuple, list)) else raw
            saved[f"{name}_raw"] = raw.numpy()
            saved[f"{name}_expected"] = non_max_suppression(raw.clone(), CONF, end2end=True)[0].numpy()
        network = of(YOLO("yolov8n.yaml"), 2, picture)
        args = types.SimpleNamespace(
            conf=0.005,
            iou=0.7,
            max_det=40,
            agnostic_nms=False,
            format="onnx",
            nms=True,
            half=False,
            batch=1,
            dynamic=False,
        )
        network.task = "detect"
        raw = NMSModel(network, args)(picture)
        raw = raw[0] if isinstance(raw, (tuple, list)) else raw
        saved["nms_raw"] = raw.numpy()
        saved["nms_expected"] = non_max_suppression(raw.clone(), CONF, end2end=True)[0].numpy()

        network = of(RTDETR("rtdetr-resnet50.yaml"), 3, picture)
        raw = network(picture)
        raw = raw[0] if isinstance(raw, (tuple, list)) else raw
        predictor = types.SimpleNamespace(
            args=types.SimpleNamespace(conf=CONF, classes=None, max_det=300),
            model=types.SimpleNamespace(names=dict(enumerate(map(str, range(80))))),
            batch=[["noise"]],
        )
        found = RTDETRPredictor.postprocess(predictor, raw.clone(), picture, [np.zeros((*HW, 3), np.uint8)])
        saved["rtdetr_raw"] = raw.numpy()
        saved["rtdetr_expected"] = found[0].boxes.data.numpy()
    np.savez_compressed(Path(__file__).parent / "end2end.npz", **saved)
    for name in ("yolov10", "yolo26", "nms", "rtdetr"):
        print(name, saved[f"{name}_raw"].shape, saved[f"{name}_expected"].shape)


if __name__ == "__main__":
    main()
