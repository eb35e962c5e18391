"""CenterNet as OpenMMLab's mmdet 3.3.0 decodes random heads (torch 2.13.0, CPU).

mmdet's head is a second implementation that its users hold to be the reference; the authors' own
repository is no package. Writes centernet.npz beside it. Run as ``python tests/authors/centernet.py
FOLDER`` in an environment that has torch, FOLDER holding the unpacked mmdet wheel: of it only
``CenterNetHead._decode_heatmap`` and ``models/utils/gaussian_target.py`` run, so that mmcv and
mmengine, which have no build for every torch, are not needed.
"""

import ast
import importlib.util
import sys
import types
from pathlib import Path
from typing import List, Optional, Tuple  # noqa: F401, UP035 - names in mmdet's signatures

import numpy as np
import torch
from torch import Tensor  # noqa: F401

HERE = Path(__file__).parent
HW = (64, 96)

models = Path(sys.argv[1]) / "mmdet" / "models"
spec = importlib.util.spec_from_file_location("gaussian_target", models / "utils" / "gaussian_target.py")
gaussian_target = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gaussian_target)

tree = ast.parse((models / "dense_heads" / "centernet_head.py").read_text(encoding="utf-8"))
(decode,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "_decode_heatmap")
names = {**vars(gaussian_target), **globals()}
exec(compile(ast.Module([decode], []), "centernet_head.py", "exec"), names)

rng = np.random.default_rng(4)
shape = (HW[0] // 4, HW[1] // 4)
logits = rng.normal(-1.5, 1.5, (1, 5, *shape)).astype(np.float32)
sizes = (rng.random((1, 2, *shape)) * 9).astype(np.float32)
offsets = rng.random((1, 2, *shape)).astype(np.float32)
boxes, labels = names["_decode_heatmap"](
    types.SimpleNamespace(),
    torch.sigmoid(torch.from_numpy(logits)),
    torch.from_numpy(sizes),
    torch.from_numpy(offsets),
    HW,
    k=100,
    kernel=3,
)
np.savez_compressed(
    HERE / "centernet.npz",
    logits=logits,
    sizes=sizes,
    offsets=offsets,
    boxes=boxes[0].numpy(),
    labels=labels[0].numpy(),
)
print(boxes.shape, (HERE / "centernet.npz").stat().st_size)
