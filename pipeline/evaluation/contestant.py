"""A detector whose answers are measured: its stages timed, its classes translated."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.cores import usable_cores
from pipeline.decide import class_ids
from pipeline.detections import Detections
from pipeline.errors import ConfigError, ModelError
from pipeline.evaluation.annotations import categories_of, plain_label
from pipeline.evaluation.objects import Kind, Objects, detected
from pipeline.frame import Frame
from pipeline.runtime.model import open_model
from pipeline.runtime.operators import quantised
from pipeline.stages.infer import Infer
from pipeline.stages.postprocess import Postprocess, Thresholds
from pipeline.stages.preprocess import BlobPool, Preprocess

log = logging.getLogger(__name__)

_NAMED = 5
_NO_CLASS = ("n/a", "background")
"""Labels that only fill a number's place."""


class Contestant:
    """A model and its stages, called one after the other.

    Of its classes those remain that ``config.classes`` wants and that ``names`` has, by name; only they
    compete for places among the best of a picture. ``names`` None: they are its own labels, each once.
    ``whose`` says in messages whose names they are.

    Raises ModelError for what is no detector, ConfigError when no class remains.
    """

    def __init__(self, config: Config, names: Sequence[str] | None = None, whose: str = "") -> None:
        self.model = open_model(
            config.model,
            config.provider,
            config.device[0],
            usable_cores(),
            input_size=config.input_size,
            options=config.provider_options,
        )
        model = self.model
        if model.family.task == "classify":
            raise ModelError(f"model {model.name!r} classifies whole pictures; eval measures boxes")
        own = {plain_label(label): label for label in reversed(model.labels)}
        self.names = tuple(reversed(own.values())) if names is None else tuple(names)
        self._category_of = categories_of(model.labels, self.names)
        wanted = class_ids(model, config.classes, "classes")
        known = [
            class_id
            for class_id, category in enumerate(self._category_of.tolist())
            if category >= 0 and (wanted is None or class_id in wanted)
        ]
        if not known:
            raise ConfigError(
                f"none of the labels of model {model.name!r} ({few(config.classes or model.labels)}) is "
                f"among the categories of {whose} ({few(self.names)}); a card can name the model's labels"
            )
        self.categories = sorted({int(self._category_of[class_id]) for class_id in known})
        self._compare_names(whose, all_wanted=wanted is None)
        self.thresholds = Thresholds(
            model.conf_threshold if config.conf_threshold is None else config.conf_threshold,
            model.iou_threshold if config.iou_threshold is None else config.iou_threshold,
            config.max_detections,
            tuple(known) if len(known) < len(model.labels) else None,
            clip=False,
        )
        pool = BlobPool(model.spec.dtype)
        preprocess, infer = Preprocess(model.spec, pool), Infer(model.session, pool)
        postprocess = Postprocess(model, self.thresholds)
        self._stages: dict[str, Any] = {"preprocess": preprocess, "infer": infer, "postprocess": postprocess}
        self._seconds: dict[str, list[float]] = {name: [] for name in self._stages}

    def __call__(self, frame: Frame, kinds: Sequence[Kind]) -> dict[Kind, Objects]:
        """Detect in one frame. Masks and keypoints are made ready for the evaluator off the clock."""
        items: list[Any] = [frame]
        for name, stage in self._stages.items():
            begun = time.perf_counter()
            items = stage(items)
            self._seconds[name].append(time.perf_counter() - begun)
        return detected(items[0].detections, self._category_of, kinds)

    def sample(self) -> Detections:
        """What it answers to a grey picture: whether there are masks, keypoints, rotated boxes."""
        picture = np.full((self.model.spec.height, self.model.spec.width, 3), 128, np.uint8)
        items: list[Any] = [Frame("", 0, picture, None, None, 0.0, 0.0)]
        for stage in self._stages.values():
            items = stage(items)
        found: Detections = items[0].detections
        return found

    def as_data(self) -> dict[str, Any]:
        """What it is and how fast: medians in ms a picture, and pictures a second of all three stages."""
        model, spent = self.model, sum(map(sum, self._seconds.values()))
        medians = {f"{name}_ms": _median_ms(seconds) for name, seconds in self._seconds.items()}
        return {
            "name": model.name,
            "file": str(model.session.path),
            "sha256": model.sha256,
            "family": model.family.name,
            "provider": model.session.active,
            "conf": self.thresholds.conf,
            "iou": self.thresholds.iou if model.family.nms else None,
            "quantised": quantised(model.session.path) or None,
            **medians,
            "pictures_per_second": round(len(self._seconds["infer"]) / spent, 2) if spent else None,
        }

    def _compare_names(self, whose: str, all_wanted: bool) -> None:
        """Say which names only one side has, unless the user chose the classes."""
        known = {plain_label(self.names[category]) for category in self.categories}
        fillers = {*_NO_CLASS, *known}
        self.not_in_truth: list[str] = []
        self.not_in_model: list[str] = []
        if not all_wanted:
            return
        self.not_in_truth += [name for name in self.model.labels if plain_label(name) not in fillers]
        self.not_in_model += [name for name in self.names if plain_label(name) not in fillers]
        for ours, theirs, missing in (
            (f"labels of model {self.model.name!r}", f"categories of {whose}", self.not_in_truth),
            (f"categories of {whose}", f"labels of model {self.model.name!r}", self.not_in_model),
        ):
            if missing:
                log.warning(
                    "%d %s are not among the %s and not measured: %s",
                    len(missing),
                    ours,
                    theirs,
                    few(missing),
                )


def few(names: Sequence[str]) -> str:
    """The first of ``names``, and how many more there are."""
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = (name if name.isprintable() else ascii(name) for name in names[:_NAMED])
    return ", ".join(shown) + more


def _median_ms(seconds: Sequence[float]) -> float | None:
    return round(statistics.median(seconds) * 1000, 3) if seconds else None
