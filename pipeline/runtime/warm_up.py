"""The first runs of a session, before there is a frame."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pipeline.runtime.session import Session
from pipeline.runtime.soundness import complaints
from pipeline.runtime.trial import Trial

if TYPE_CHECKING:
    from pipeline.runtime.model import Model

log = logging.getLogger(__name__)

_SHOWN = {"person", "cat"}
"""What the photograph shows: a model that knows both should see one."""
_FAINT = 0.1


def warm_up(model: Model, session: Session, runs: int = 1) -> None:
    """Run a session of the model, then ``runs`` times at once, so that no frame pays for allocations.

    Raises ModelError. Warns of a model whose detections would silently be none, or nonsense.
    """
    trial = Trial(session)
    trial.run(model.spec)
    with ThreadPoolExecutor(runs, thread_name_prefix="warm-up") as threads:
        outputs = next(iter([*threads.map(trial.run, [model.spec] * runs)]))
    broken = list(complaints(session.outputs, outputs))
    for complaint in broken:
        log.warning("model %s looks broken: %s", session.path.name, complaint)
    # Unnamed classes may be COCO's, or anything; then nothing confirmed how the model is read, either.
    shown = not model.named or set(model.labels) >= _SHOWN
    if broken or not shown or model.family.labels or model.family.task not in ("detect", "segment", "pose"):
        return
    best = float(model.decode(outputs, 0.0).scores.max(initial=0.0))
    if best < _FAINT:
        log.warning(
            "model %s sees neither the person nor the cat in a photograph of both (best score %.2g): "
            "%sbroken, or fed in a wrong way? framerail models identify says more",
            session.path.name,
            best,
            "" if model.named else "made for other things, read wrongly, ",
        )
