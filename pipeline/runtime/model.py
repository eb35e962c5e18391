"""A detector ready to run: a verified session, and the answer to how it is fed and read, with reasons."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from pipeline.decoders import DECODERS, Candidates, Family, Identification, identify
from pipeline.errors import ModelError
from pipeline.runtime.card import ModelCard, read_labels
from pipeline.runtime.catalog import Located, locate, models_dir
from pipeline.runtime.session import Session
from pipeline.vision.letterbox import InputSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """``reasons`` says for each property where it came from: the card, the file's metadata or shapes,
    the family's default."""

    name: str
    sha256: str
    session: Session
    family: Family
    labels: Sequence[str]
    spec: InputSpec
    conf_threshold: float
    iou_threshold: float
    max_batch: int | None
    """Frames that one run may take; None: any number."""
    params: dict[str, Any]
    reasons: dict[str, str]
    license: str = ""

    def decode(self, outputs: Sequence[NDArray[Any]], conf_threshold: float) -> Candidates:
        """Raw outputs for one frame to candidates in model-input pixels. Raises ModelError."""
        return self.family.decode(outputs, (self.spec.height, self.spec.width), conf_threshold, self.params)


def open_model(model: str, provider: str = "auto", device: int = 0, threads: int = 1) -> Model:
    """Locate, open on a provider, identify and warm up a detector.

    Raises ModelError (not found, not loadable, UnknownLayoutError), ProviderError, ConfigError.
    """
    located = locate(model)
    session = Session(located.path, provider, device, threads)
    opened = describe(located, session)
    spec = opened.spec
    session.warm_up((1, 3, spec.height, spec.width), spec.dtype)
    log.info(
        "model %s (%s) runs on %s: %s",
        opened.name,
        opened.family.name,
        session.active,
        ", ".join(f"{count} nodes on {where}" for where, count in session.nodes.items()),
    )
    return opened


def describe(located: Located, session: Session) -> Model:
    """Put together what card, file and family say of a model; the card wins."""
    card = located.card
    found = identify(session.inputs, session.outputs, session.metadata)
    reasons = dict(found.reasons)
    if card is not None:
        _check_family(card, found, reasons)
    labels = tuple(found.labels)
    if card is not None and card.labels is not None:
        labels = _labels_of(card, located)
        reasons["labels"] = "model card"
    if len(labels) != found.num_classes:
        if labels:
            raise ModelError(
                f"model {located.name!r} has {found.num_classes} classes, but {len(labels)} labels "
                f"({reasons.get('labels', '')})"
            )
        labels = _default_labels(found.num_classes, reasons)
    spec = _merge_spec(found.spec, card, reasons)
    conf, iou = found.family.conf_threshold, found.family.iou_threshold
    reasons["thresholds"] = f"default of the family {found.family.name}"
    if card is not None and (card.conf_threshold is not None or card.iou_threshold is not None):
        conf = card.conf_threshold if card.conf_threshold is not None else conf
        iou = card.iou_threshold if card.iou_threshold is not None else iou
        reasons["thresholds"] = "model card"
    batch = session.inputs[0].shape[0]
    return Model(
        name=located.name,
        sha256=located.sha256,
        session=session,
        family=found.family,
        labels=labels,
        spec=spec,
        conf_threshold=conf,
        iou_threshold=iou,
        max_batch=batch,
        params={**found.params, **(card.params if card is not None else {})},
        reasons=reasons,
        license=(card.license if card is not None else "") or session.metadata.get("license", ""),
    )


def _check_family(card: ModelCard, found: Identification, reasons: dict[str, str]) -> None:
    if card.family not in DECODERS:
        raise ModelError(
            f"model card {card.name!r}: unknown family {card.family!r}; known: {', '.join(DECODERS)}"
        )
    if card.family != found.family.name:
        raise ModelError(
            f"model card {card.name!r} says family {card.family!r}, but the file looks like "
            f"{found.family.name!r} ({found.reasons.get('family', '')})"
        )
    reasons["family"] = f"model card, and {reasons.get('family', 'the file agrees')}"


def _labels_of(card: ModelCard, located: Located) -> tuple[str, ...]:
    if isinstance(card.labels, list):
        return tuple(card.labels)
    beside = located.path.parent / f"{card.labels}.txt"
    return read_labels(beside if beside.is_file() else models_dir() / "labels" / f"{card.labels}.txt")


def _default_labels(classes: int, reasons: dict[str, str]) -> tuple[str, ...]:
    if classes == 80:
        reasons["labels"] = "COCO's 80, because the model has 80 classes and names none"
        return read_labels(models_dir() / "labels" / "coco80.txt")
    reasons["labels"] = f"numbers, because nothing names the {classes} classes (write a card to name them)"
    return tuple(f"class {index}" for index in range(classes))


def _merge_spec(spec: InputSpec, card: ModelCard | None, reasons: dict[str, str]) -> InputSpec:
    if card is None:
        return spec
    stated = card.input.model_dump(exclude_none=True)
    size = stated.pop("size", None)
    if size is not None:
        if tuple(size) != (spec.height, spec.width) and "shape" in reasons.get("size", ""):
            raise ModelError(
                f"model card {card.name!r} says input size {size[0]}x{size[1]}, but the file takes "
                f"{spec.height}x{spec.width}"
            )
        stated["height"], stated["width"] = size
        reasons["size"] = "model card"
    for key in stated:
        if key not in ("height", "width"):
            reasons[key] = "model card"
    current = {name: getattr(spec, name) for name in spec.__slots__}
    return InputSpec(**{**current, **stated})
