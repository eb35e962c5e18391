"""How good a detector is: AP, and the speed beside it. What ``framerail eval`` does.

What is true is either what people labelled (:func:`against_labels`) or what another detector sees
(:func:`against_reference`): another model, or the same on another provider. The second needs no
labels, and is how a float16, int8 or TensorRT build is accepted.
"""

from pipeline.evaluation.measure import Measured, against_labels, against_reference
from pipeline.evaluation.metrics import check_evaluator
from pipeline.evaluation.objects import PREFIXES

LEAST_SCORE = 0.01
"""AP ranks the doubtful detections, too; those of .001 to .01 add .002 (YOLOv8n, 128 pictures of COCO)."""

__all__ = ["LEAST_SCORE", "PREFIXES", "Measured", "against_labels", "against_reference", "check_evaluator"]
