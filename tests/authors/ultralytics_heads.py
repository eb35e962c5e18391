"""Ultralytics' own answers for the heads beside detection: segmentation, pose, oriented boxes.

Made with ultralytics 8.4.190, torch 2.13.0 (CPU) and onnxruntime 1.31.1, in an environment of its own:

    python tests/authors/ultralytics_heads.py

Each model is built from the package's own description with random weights, exported to ONNX by the
package, and run on random pixels; what comes out is decoded by the package at a low threshold, without
suppression (an IoU threshold of 1) and with it, and brought to a picture of 80 × 192. Writes one .npz
for each family beside this file: the raw outputs, what the file declares, and the expected values.
"""

import ast
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import torch
from ultralytics import YOLO
from ultralytics.utils import nms, ops

HEIGHT, WIDTH = 64, 96
FRAME = (80, 192)
CONF, IOU = 0.05, 0.7
MODELS = {
    "yolov8_seg": "yolov8n-seg",
    "yolov8_pose": "yolo11n-pose",
    "yolov8_obb": "yolo11n-obb",
    "end2end_seg": "yolo26n-seg",
    "end2end_pose": "yolo26n-pose",
    "end2end_obb": "yolo26n-obb",
}

# The package takes torchvision's NMS where that is loaded, else its own, which gives the same.
nms.sys = SimpleNamespace(modules={})


def export(name: str, folder: Path, classes: int) -> Path:
    """The package's description of a model, with other classes and random weights, as ONNX."""
    import ultralytics
    import yaml

    found = next(Path(ultralytics.__file__).parent.glob(f"cfg/models/**/{name.replace('n-', '-')}.yaml"))
    described = yaml.safe_load(found.read_text())
    described["nc"] = classes
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(described))
    torch.manual_seed(7)
    model = YOLO(str(path))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in model.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.copy_(0.8 + 0.4 * torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
        head = model.model.model[-1]
        for branch in ("cv2", "cv3", "cv4", "one2one_cv2", "one2one_cv3", "one2one_cv4"):
            for level in getattr(head, branch, None) or ():
                last = [m for m in level.modules() if isinstance(m, torch.nn.Conv2d)][-1]
                last.weight.mul_(8)
                if "cv3" in branch:
                    last.bias.fill_(-1.5)
    # nms=False is how YOLO26 is exported with the branch that answers each object once.
    once = {"nms": False, "max_det": 60} if hasattr(head, "one2one_cv2") else {}
    exported = model.export(format="onnx", imgsz=(HEIGHT, WIDTH), simplify=False, verbose=False, **once)
    return Path(exported)


def expected(task: str, metadata: dict, outputs: list[np.ndarray], iou: float) -> dict[str, np.ndarray]:
    """What the package makes of the outputs, first in input pixels, then in those of the picture."""
    table = torch.from_numpy(outputs[0].copy())
    names = ast.literal_eval(metadata["names"])
    found = nms.non_max_suppression(
        table,
        CONF,
        iou,
        nc=len(names),
        max_det=300,
        rotated=task == "obb",
        end2end=metadata.get("end2end") == "True",
    )[0]
    values = {"boxes": found[:, :4].numpy(), "scores": found[:, 4].numpy(), "classes": found[:, 5].numpy()}
    frame_boxes = ops.scale_boxes((HEIGHT, WIDTH), found[:, :4].clone(), FRAME, xywh=task == "obb")
    values["frame_boxes"] = frame_boxes.numpy()
    if task == "obb":
        values["angles"] = found[:, -1].numpy()
        values["corners"] = ops.xywhr2xyxyxyxy(torch.cat([frame_boxes, found[:, -1:]], 1)).numpy()
    if task == "pose":
        points = found[:, 6:].reshape(len(found), *ast.literal_eval(metadata["kpt_shape"]))
        values["frame_keypoints"] = ops.scale_coords((HEIGHT, WIDTH), points.clone(), FRAME).numpy()
    if task == "segment":
        planes = torch.from_numpy(outputs[1][0].astype(np.float32))
        values["coefficients"] = found[:, 6:].numpy()
        few = slice(0, 12)
        masks = ops.process_mask_native(planes, found[few, 6:], frame_boxes[few], FRAME)
        values["masks"] = np.packbits(masks.numpy().astype(bool), axis=-1)
    return values


def main(names: list[str]) -> None:
    """Write the files of these families, or of all."""
    for family, name in MODELS.items():
        if names and family not in names:
            continue
        classes = 1 if name.endswith("pose") else 3
        with tempfile.TemporaryDirectory() as folder:
            session = onnxruntime.InferenceSession(export(name, Path(folder), classes))
        metadata = session.get_modelmeta().custom_metadata_map
        pixels = np.random.default_rng(3).random((1, 3, HEIGHT, WIDTH), np.float32)
        outputs = session.run(None, {session.get_inputs()[0].name: pixels})
        if metadata["task"] == "segment":
            # With random weights no mask has a pixel. Half the size; the package gets the same values.
            planes = np.random.default_rng(4).standard_normal(outputs[1].shape)
            outputs[1] = planes.astype(np.float16)
        stored = {
            f"{when}_{key}": value
            for when, iou in (("before", 1.0), ("after", IOU))
            for key, value in expected(metadata["task"], metadata, outputs, iou).items()
            if when == "after" or key in ("boxes", "scores", "classes", "angles")
        }
        kept = ("task", "names", "imgsz", "stride", "kpt_shape", "end2end", "args")
        np.savez_compressed(
            Path(__file__).with_name(f"{family}.npz"),
            **{f"output{i}": output for i, output in enumerate(outputs)},
            names=np.array([output.name for output in session.get_outputs()]),
            metadata=np.array(repr({key: metadata[key] for key in kept if key in metadata})),
            **stored,
        )
        counts = {when: len(stored[f"{when}_boxes"]) for when in ("before", "after")}
        size = Path(__file__).with_name(f"{family}.npz").stat().st_size
        print(family, name, [o.shape for o in outputs], counts, size, stored["before_scores"].max())


if __name__ == "__main__":
    main(sys.argv[1:])
