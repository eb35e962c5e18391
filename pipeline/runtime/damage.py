"""Whether a quantised model shows by itself, without the one it was made from, that it has lost its sight."""

from __future__ import annotations

from pipeline.runtime.embed import QUANTISED_KEY
from pipeline.runtime.model import Model
from pipeline.runtime.operators import quantised
from pipeline.runtime.trial import Trial

_SHOWN = ("person", "cat")
"""What the photograph shows."""


def damage(model: Model) -> str:
    """What is wrong, as a sentence; empty for a model that is not quantised, or whose loss is stated in it.

    A sign and no measurement: of a photograph with a person and a cat in it, a detector that knows both is
    sure of neither. How much it has lost, only the model it was made from can say. Raises ModelError.
    """
    kind = quantised(model.session.path)
    if not kind or QUANTISED_KEY in model.session.metadata or not set(model.labels) >= set(_SHOWN):
        return ""
    if model.family.task == "classify":
        return ""
    found = model.decode(Trial(model.session).run(model.spec), 0.0)
    best = {
        name: float(found.scores[found.class_id == model.labels.index(name)].max(initial=0.0))
        for name in _SHOWN
    }
    if max(best.values()) > model.conf_threshold:
        return ""
    seen = ", ".join(f"{name} {score:.2f}" for name, score in best.items())
    return (
        f"model {model.name!r} looks damaged by its quantisation, {kind}: of the person and the cat in a "
        f"photograph it is sure of neither ({seen}; its threshold is {model.conf_threshold:.2f})"
    )
