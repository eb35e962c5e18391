"""A detector against labelled pictures, or against another detector on unlabelled ones.

A frame goes through the stages by itself, and through both detectors before the next is read, instead
of down the line of ``app``. So a stage's time is its own and not its neighbours'; both detectors see the
same frames, of a live source too; and an answer belongs to its picture whatever cannot be read.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.decide import name_streams
from pipeline.errors import ConfigError, SourceError, SourceOpenError
from pipeline.evaluation.annotations import LabelledPicture, find_picture, read_annotations
from pipeline.evaluation.contestant import Contestant, few
from pipeline.evaluation.frames import Frames
from pipeline.evaluation.heads import Plan, against_file, against_model
from pipeline.evaluation.metrics import average_precision, check_evaluator
from pipeline.evaluation.objects import PREFIXES, Kind, Objects, believed
from pipeline.frame import Frame
from pipeline.runtime.damage import damage
from pipeline.sources import SourceSpec
from pipeline.sources.pictures import PicturesSource

log = logging.getLogger(__name__)

Progress = Callable[[Iterable[Frame], int | None], Iterable[Frame]]
"""Shows how far an iteration is; the number is how many there will be, where known."""


Judged = dict[Kind, list[Objects]]
"""The objects of each picture, for each kind of metric."""


@dataclass(frozen=True, slots=True)
class Measured:
    """``report``: the metrics by COCO's names, ``classes``, ``model``, ``pictures``, … as JSON has them.

    ``failures``: sources that ended before their time; what they gave is measured.
    """

    report: dict[str, Any]
    failures: list[SourceError]


def against_labels(
    config: Config, folder: str, annotations: str, limit: int | None, progress: Progress
) -> Measured:
    """Measure on the pictures that a file of annotations names, or the first ``limit`` in natural order.

    What is missing, cannot be read or has another size than stated is named in the report and in the
    log; AP is that of the others. Raises ConfigError, ModelError, ProviderError, DependencyError;
    SourceOpenError when no picture can be read.
    """
    labelled = read_annotations(annotations)
    if not Path(folder).is_dir():
        raise ConfigError(f"images: expected a folder of pictures; there is none at {folder}")
    if labelled.stray:
        log.warning("%s: %d annotations are of pictures that it does not list", annotations, labelled.stray)
    chosen = labelled.pictures[:limit]
    located = [(picture, find_picture(Path(folder), picture.file_name)) for picture in chosen]
    missing = [picture.file_name for picture, path in located if path is None]
    there = [(picture, path) for picture, path in located if path is not None]
    if not there:
        raise SourceOpenError(
            f"none of the {len(chosen)} pictures of {annotations} is in {folder}", "not_found"
        )
    _warn(len(chosen), missing, f"are not in {folder}")
    detector = Contestant(config, labelled.categories, annotations)
    plan = against_file(detector, labelled)
    there = [(picture.checked(plan.kinds), path) for picture, path in there]
    truth: Judged = {kind: [] for kind in plan.kinds}
    seen: Judged = {kind: [] for kind in plan.kinds}
    odd: list[str] = []
    frames = _frames_of(folder, [path for _, path in there], config)
    for frame in progress(frames, len(there)):
        picture = there[frame.seq][0]
        measured = np.isin(picture.objects.category, detector.categories)
        true = {kind: picture.judged(kind, frame.height, frame.width).where(measured) for kind in plan.kinds}
        odd += [] if _fits(picture, true, frame) else [picture.file_name]
        _append(truth, true)
        _append(seen, detector(frame, plan.kinds))
    if not seen["bbox"]:
        raise SourceOpenError(f"none of the {len(there)} pictures in {folder} can be read", "format")
    _warn(len(chosen), odd, f"have another size than {annotations} says")
    if all(objects.crowd.all() for objects in truth["bbox"]):
        raise ConfigError(
            f"{annotations}: no object of the measured categories is in the {len(seen['bbox'])} pictures, "
            "so there is no AP"
        )
    unreadable = [there[seq][0].file_name for seq in frames.unreadable]
    report = _report(config, detector, plan, truth, seen)
    report["truth"] = annotations
    report["pictures"] |= {"missing": missing, "unreadable": unreadable, "other_size": odd}
    return Measured(report, [])


def against_reference(config: Config, reference: Config, limit: int | None, progress: Progress) -> Measured:
    """Measure on ``config.streams``, ``limit`` frames each; the detections of ``reference`` are the truth.

    COCO's AP is the mean over the classes that the truth has; what the detector is as sure of in others is
    counted in ``surplus``. Raises ConfigError, ModelError, ProviderError, DependencyError; a group of
    SourceErrors when no frame came.
    """
    sources = name_streams(config.streams)
    for name, (spec, stream) in sources.items():
        if limit is None and stream.asked_live(spec.live):
            raise ConfigError(f"{name}: a live source does not end by itself; give a limit (--limit N)")
    judge = Contestant(reference)
    detector = Contestant(config, judge.names, f"the reference {judge.model.name!r}")
    plan = against_model(detector, judge)
    truth: Judged = {kind: [] for kind in plan.kinds}
    seen: Judged = {kind: [] for kind in plan.kinds}
    failures: list[SourceError] = []
    unreadable = 0
    for name, (spec, stream) in sources.items():
        frames = Frames(spec, stream, name, limit)
        for frame in progress(frames, limit):
            objects = judge(frame, plan.kinds)
            measured = np.isin(objects["bbox"].category, detector.categories)
            sure = judge.thresholds.conf
            _append(truth, {k: believed(k, each.where(measured), sure) for k, each in objects.items()})
            _append(seen, detector(frame, plan.kinds))
        unreadable += len(frames.unreadable)
        failures += [frames.error] if frames.error is not None else []
    if not seen["bbox"]:
        if failures:
            raise ExceptionGroup("no source could be opened", failures)
        raise SourceOpenError("no picture of the sources can be read", "format")
    if not any(map(len, truth["bbox"])):
        raise ConfigError(
            f"the reference {judge.model.name!r} is sure of nothing in {len(seen['bbox'])} pictures, so "
            "there is no AP: take other pictures, or a lower --reference-conf"
        )
    report = _report(config, detector, plan, truth, seen)
    report["reference"] = judge.as_data()
    report["pictures"]["unreadable"] = unreadable
    report["surplus"] = _surplus(judge, truth["bbox"], seen["bbox"])
    return Measured(report, failures)


def _append(pictures: Judged, one: Mapping[Kind, Objects]) -> None:
    for kind, objects in one.items():
        pictures[kind].append(objects)


def _surplus(judge: Contestant, truth: Sequence[Objects], seen: Sequence[Objects]) -> dict[str, int]:
    """How often the detector is as sure of a class as the reference has to be, which never sees it."""
    true = np.unique(np.concatenate([objects.category for objects in truth]))
    sure = np.concatenate([objects.category[objects.score > judge.thresholds.conf] for objects in seen])
    surplus = Counter(judge.names[category] for category in sure[~np.isin(sure, true)].tolist())
    if surplus:
        counts = [f"{label} ({count})" for label, count in surplus.most_common()]
        log.warning("classes that the reference never sees, which AP leaves out: %s", few(counts))
    return dict(surplus)


def _frames_of(folder: str, paths: list[Path], config: Config) -> Frames:
    """The pictures of some files, as one stream; ``Frame.seq`` is the index of the file."""
    name = Path(folder).resolve().name or "pictures"
    spec = SourceSpec("pictures", folder, name, False)
    return Frames(
        spec,
        config.streams[0],
        name,
        None,
        lambda _, __, stop, *___: PicturesSource(paths, stop, config.streams[0].max_picture),
    )


def _fits(picture: LabelledPicture, true: Mapping[Kind, Objects], frame: Frame) -> bool:
    """Whether the frame has the size that the file states, and that its masks have."""
    masks = true["segm"].shapes or () if "segm" in true else ()
    stated = [picture.size, *((mask["size"][1], mask["size"][0]) for mask in masks)]
    return all(
        side in (None, is_)
        for size in stated
        for side, is_ in zip(size, (frame.width, frame.height), strict=True)
    )


def _warn(count: int, names: Sequence[str], what: str) -> None:
    if names:
        log.warning("%d of %d pictures %s: %s", len(names), count, what, few(names))


def _report(config: Config, detector: Contestant, plan: Plan, truth: Judged, seen: Judged) -> dict[str, Any]:
    """The metrics first, so that they are read first."""
    categories = {index: detector.names[index] for index in detector.categories}
    metrics: dict[str, Any] = {}
    classes: dict[str, dict[str, Any]] = {name: {} for name in categories.values()}
    for kind in plan.kinds:
        most = min(config.max_detections, plan.most.get(kind, config.max_detections))
        of_all, of_classes = average_precision(truth[kind], seen[kind], categories, most, kind)
        metrics |= of_all
        for name, row in of_classes.items():
            classes[name] |= row
    missing = dict(plan.not_measured)
    for kind in plan.kinds:
        if metrics[f"{PREFIXES[kind]}AP"] is None:
            missing[f"{PREFIXES[kind]}AP"] = "there is nothing to find"
    for what, why in missing.items():
        log.warning("%s is not measured: %s", what, why)
    return {
        **metrics,
        "classes": {name: row for name, row in classes.items() if row["objects"] or row["detections"]},
        "objects": sum(row["objects"] for row in classes.values()),
        "pictures": {"measured": len(seen["bbox"])},
        "model": detector.as_data(),
        "reference": None,
        "truth": None,
        "labels": {"not_in_truth": detector.not_in_truth, "not_in_model": detector.not_in_model},
        "max_detections": config.max_detections,
        "iou_types": list(plan.kinds),
        "not_measured": missing,
        "lost": plan.lost,
        "damage": damage(detector.model) or None,
        "evaluator": check_evaluator(),
    }
