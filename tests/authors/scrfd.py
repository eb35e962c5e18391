"""SCRFD as insightface 2.1 decodes random heads, before and after its NMS.

Writes scrfd.npz beside it. Run in an environment that has insightface and onnxruntime:
``python tests/authors/scrfd.py``. No model is needed: the session that ``SCRFD`` is given answers
with random tensors, and the rest is theirs: ``forward`` before NMS, ``detect`` after it (IoU .4).
"""

import types
from pathlib import Path

import numpy as np
from insightface.model_zoo.scrfd import SCRFD

HERE = Path(__file__).parent
HW = (64, 96)
LOW = 0.05


class Answers:
    """A session whose answer to any picture is the same."""

    def __init__(self, outputs):
        self._outputs = outputs

    def get_inputs(self):
        return [types.SimpleNamespace(name="input.1", shape=[1, 3, *HW], type="tensor(float)")]

    def get_outputs(self):
        return [types.SimpleNamespace(name=n, shape=list(a.shape)) for n, a in self._outputs.items()]

    def run(self, names, _feeds):
        return [self._outputs[name] for name in names]


def heads(rng, landmarks, batched, strides, each):
    widths = {"score": 1, "bbox": 4, "kps": 10} if landmarks else {"score": 1, "bbox": 4}
    outputs = {}
    for kind, width in widths.items():
        for stride in strides:
            rows = each * -(-HW[0] // stride) * -(-HW[1] // stride)
            values = rng.random((rows, width), np.float32)
            values = values**3 if kind == "score" else values * 3 - (1.2 if kind == "kps" else 0)
            outputs[f"{kind}_{stride}"] = values[None] if batched else values
    return outputs


rng = np.random.default_rng(8)
saved = {}
for name, (landmarks, batched, strides, each) in {
    "kps": (True, False, (8, 16, 32), 2),
    "boxes": (False, True, (8, 16, 32), 2),
    "five": (False, False, (8, 16, 32, 64, 128), 1),
}.items():
    # insightface takes the floor of cells: only where the strides divide the input does it run.
    if name == "five":
        HW = (128, 128)
    outputs = heads(rng, landmarks, batched, strides, each)
    detector = SCRFD(session=Answers(outputs))
    picture = np.zeros((*HW, 3), np.uint8)
    scores, boxes, points = detector.forward(picture, LOW)
    after, after_points = detector.detect(picture, det_thresh=LOW)
    saved |= {f"{name}/output/{key}": value for key, value in outputs.items()}
    saved[f"{name}/before_scores"] = np.concatenate(scores)[:, 0]
    saved[f"{name}/before_boxes"] = np.concatenate(boxes)
    saved[f"{name}/after"] = after
    if landmarks:
        saved[f"{name}/before_points"] = np.concatenate(points)
        saved[f"{name}/after_points"] = after_points
np.savez_compressed(HERE / "scrfd.npz", **saved)
print({key: value.shape for key, value in saved.items()}, (HERE / "scrfd.npz").stat().st_size)
