"""``framerail models quantize``: a smaller copy of a detector, accepted or refused by what it has lost."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline import __version__, profiles
from pipeline.copies.loss import Loss, Options, loss_of
from pipeline.copies.report import show, speed
from pipeline.copies.trial import Eyes, Ranking, Sight, Telling, rank
from pipeline.cores import usable_cores
from pipeline.errors import ConfigError, ModelError, NotAcceptedError
from pipeline.evaluation import check_evaluator
from pipeline.placing import check_place, place, same_file
from pipeline.printable import json_text
from pipeline.progress import progress
from pipeline.quantization import check_tools
from pipeline.runtime.catalog import locate
from pipeline.runtime.embed import QUANTISED_KEY, embedded
from pipeline.runtime.model import Model, open_model

_TELLING = 8
"""Frames on which each layer is tried."""
_SAME = 0.999
"""The simplified model answers as the given one; rounding may move a doubtful detection."""


@dataclass(slots=True)
class _Work:
    """What is at hand while copies are made: all files lie in ``folder``, which goes at the end."""

    options: Options
    model: Model
    eyes: Eyes
    folder: Path
    err: Console
    loss: Loss


def quantize(options: Options, out: Console, err: Console, *, as_json: bool) -> None:
    """Make a copy, and print what it has lost: a table to ``out``, or JSON to standard output.

    Raises as :func:`copied` does, and NotAcceptedError (exit code 4), after printing, where that is too much.
    """
    report, why = copied(options, err)
    if as_json:
        print(json_text(report))
    else:
        show(report, out)
    if not report["accepted"]:
        raise NotAcceptedError(f"{why}; no file is written: {_remedy(options)}")


def copied(options: Options, err: Console, like: Model | None = None) -> tuple[dict[str, Any], str]:
    """Make a copy, measure what it has lost, and write it if that is little enough (``accepted``).

    Returns the report, and in words why it is not accepted. Progress goes to ``err``. Raises ConfigError,
    ModelError, ProviderError, SourceError, SinkOpenError; DependencyError without onnx or the evaluator.
    ModelError, too, where the model's file or card is no longer that of ``like``, or changes meanwhile.
    """
    check_tools()
    check_evaluator()
    options.check()
    size = options.config(options.model).input_size
    begun_with = profiles.told_apart_by(locate(options.model))
    model = open_model(options.model, "cpu", 0, usable_cores(), input_size=size)
    if like is not None and (model.sha256, embedded(model)) != (like.sha256, embedded(like)):
        raise _changed(model)
    if model.family.task == "classify":
        raise ModelError(
            f"model {model.name!r} classifies whole pictures; what is measured here is AP of boxes"
        )
    target = options.target(model)
    if same_file(target, model.session.path):
        raise ConfigError(f"--output: it would overwrite {target}, which is read; give another name")
    check_place(target)
    with tempfile.TemporaryDirectory(prefix="framerail-") as folder:
        loss = loss_of(options, partial(progress, err, "measure"))
        work = _Work(options, model, Eyes(model), Path(folder), err, loss)
        copy, report = (_int8 if options.precision == "int8" else _half)(work)
        report |= {"file": str(target), "model": model.name, "bytes": copy.stat().st_size}
        report |= {
            "source_bytes": model.session.path.stat().st_size,
            "accepted": loss.accepts(report["measured"]),
        }
        report["ms_one_thread"] = speed(work.model, copy)
        if profiles.told_apart_by(locate(options.model)) != begun_with:
            raise _changed(model)
        if report["accepted"]:
            place(copy.read_bytes(), target)
    return report, "" if report["accepted"] else loss.said(report["measured"])


def _changed(model: Model) -> ModelError:
    return ModelError(f"model {model.name!r}, its file or its card, became another one meanwhile")


def _int8(work: _Work) -> tuple[Path, dict[str, Any]]:
    from pipeline.quantization import int8
    from pipeline.quantization.prepared import prepare

    options = work.options
    prepared = prepare(work.model.session.path, work.folder)
    telling = Telling(_TELLING)
    sights = telling(work.eyes.sights(progress(work.err, "calibrate", options.calibration(), options.frames)))
    feeds = (work.model.session.feeds(sight.blob) for sight in sights)
    ranges = int8.calibrated(prepared, options.method, feeds, work.folder)
    best = _checked(work, prepared.path, telling)
    units = prepared.structure.units(int8.OPERATORS)
    if not units:
        raise ModelError(
            f"model {work.model.name!r} has no convolution, and int8 is for those; try --precision fp16"
        )
    by_name = {unit[0]: unit for unit in units}
    trial = work.folder / "trial.onnx"

    def damage_of(unit: tuple[str, ...], frames: int) -> float:
        trial.write_bytes(int8.quantised_copy(prepared, ranges, (), unit).SerializeToString())
        return 1 - work.eyes.agreement(trial, best[:frames])

    ranking: Ranking | None = None
    tried: list[dict[str, Any]] = []
    for count in _counts(options.float_layers, len(units)):
        if count and ranking is None:
            ranking = rank(
                units, damage_of, len(best), options.seconds, partial(progress, work.err, "try each layer")
            )
        kept = list(ranking.damage)[:count] if ranking is not None else []
        model = int8.quantised_copy(prepared, ranges, [name for unit in kept for name in by_name[unit]])
        how = {
            "method": options.method,
            "frames": telling.frames,
            "layers": len(units),
            "in_float": {name: round(ranking.damage[name], 6) for name in kept}
            if ranking is not None
            else {},
            "tail": "float: every node after the last convolutions",
        }
        copy, report = _measured(work, model, how)
        tried.append({"in_float": len(kept), "loss": report["measured"]["loss"]})
        report |= {"tried": tried, "untried_layers": ranking.untried if ranking is not None else None}
        if work.loss.accepts(report["measured"]):
            break
    return copy, report


def _half(work: _Work) -> tuple[Path, dict[str, Any]]:
    from pipeline.quantization.half import half_copy
    from pipeline.quantization.prepared import prepare

    prepared = prepare(work.model.session.path, work.folder)
    telling = Telling(_TELLING)
    for _ in telling(
        work.eyes.sights(progress(work.err, "look", work.options.calibration(), work.options.frames))
    ):
        pass
    _checked(work, prepared.path, telling)
    return _measured(work, half_copy(prepared, work.model.session.picture), {"tail": "float32"})


def _checked(work: _Work, simplified: Path, telling: Telling) -> list[Sight]:
    """The frames that tell most. Raises ModelError where none does, or the simplified model is another."""
    best = telling.best
    if not telling.frames:
        raise ModelError("the source gave no picture to calibrate on")
    if not best:
        raise ModelError(
            f"model {work.model.name!r} sees nothing in {telling.frames} frames of the source, so nothing "
            "can be told from them: give footage of what it is to detect"
        )
    agrees = work.eyes.agreement(simplified, best)
    if agrees < _SAME:
        raise ModelError(
            f"model {work.model.name!r} answers otherwise once it is simplified (agreement {agrees:.3f} of "
            "1): export it again with opset 13 or later"
        )
    return best


def _counts(asked: int | None, units: int) -> list[int]:
    """How many layers to keep in float, one try after the other: none, then twice as many up to half."""
    if asked is not None:
        return [min(asked, units)]
    counts = [0]
    while (following := max(2, 2 * counts[-1])) <= max(units // 2, 2):
        counts.append(following)
    return counts


def _measured(work: _Work, model: Any, how: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Write the copy with its metadata, measure it, and write what was measured into it too."""
    from pipeline.quantization.prepared import stamped

    source = work.model
    said = {
        "precision": work.options.precision,
        "source": {"name": source.name, "sha256": source.sha256},
        "made_by": f"framerail {__version__}, {_runtime()}",
        **how,
    }
    copy = work.folder / f"{source.name}-{work.options.precision}.onnx"
    metadata = embedded(source)
    copy.write_bytes(stamped(model, metadata))
    said["measured"] = work.loss.measure(copy)
    copy.write_bytes(stamped(model, metadata | {QUANTISED_KEY: json.dumps(said)}))
    return copy, said


def _runtime() -> str:
    from pipeline.dependencies import RUNTIMES, installed

    return " and ".join(f"{name} {version}" for name, version in installed(RUNTIMES).items())


def _remedy(options: Options) -> str:
    other = "--method percentile" if options.method == "minmax" else "--method minmax"
    tune = f"more --frames of the very cameras, {other}, or " if options.precision == "int8" else ""
    return f"try {tune}a higher --max-ap-loss if that is good enough"
