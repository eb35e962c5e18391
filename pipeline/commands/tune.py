"""``framerail tune``: the fastest settings for a model on this machine, kept as a profile for ``run``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline import profiles
from pipeline.bench.axes import usual
from pipeline.bench.isolated import apart
from pipeline.bench.machine import machine
from pipeline.bench.point import trial
from pipeline.bench.steady import Settings
from pipeline.bench.tune import Climb, Journal, ModelChangedError, Setting, Step, Tried, concurrencies, said
from pipeline.config import Config, make_config
from pipeline.copies.kept import Copy, identity, made
from pipeline.copies.loss import Options as Quantisation
from pipeline.copies.loss import aps, weighted
from pipeline.cores import usable_cores
from pipeline.errors import ConfigError, ModelError, NotAcceptedError
from pipeline.evaluation import against_labels, against_reference, check_evaluator
from pipeline.frame import Frame
from pipeline.printable import json_text
from pipeline.redact import redact
from pipeline.runtime.catalog import Located, locate
from pipeline.runtime.damage import damage
from pipeline.runtime.embed import embedded
from pipeline.runtime.model import Model, fusion_for, open_model
from pipeline.runtime.providers import on_offer
from pipeline.sources import parse_source

_PRECISIONS = {"cpu": ("int8",), "openvino": ("int8", "fp16")}
"""Copies worth trying by provider, as ``models quantize`` names them; float16 alone on all others, which are
for GPUs. OpenVINO is for processors and GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """As on the command line; ``run`` holds keys of ``Config`` that are given and not to be tuned."""

    source: str
    max_ap_loss: float | None = None
    """None: as for ``models quantize``, .01 with labels, else .1."""
    images: str | None = None
    annotations: str | None = None
    seconds: float = 4.0
    fresh: bool = False
    run: dict[str, Any] = field(default_factory=dict)

    def asked(self) -> Quantisation:
        """The same for a smaller copy of the model, and for what may be lost."""
        given: dict[str, Any] = {"input_size": self.run["input_size"]} if "input_size" in self.run else {}
        return Quantisation(
            model=self.run.get("model", Config.model_fields["model"].default),
            calibrate=[self.source],
            images=self.images,
            annotations=self.annotations,
            max_ap_loss=self.max_ap_loss,
            **given,
        )

    def config(self, setting: Setting) -> Config:
        """The line with a setting, and no profile."""
        stream: dict[str, Any] = {"source": self.source, "reconnect": False}
        if parse_source(self.source).live is False:
            stream["loop"] = True
        return make_config({**self.run, **setting, "profile": False, "streams": [stream]})


def tune(options: Options, out: Console, err: Console, *, as_json: bool) -> None:
    """Try, write the profile, and print what was tried; progress goes to ``err``.

    Interrupted, it goes on where it was when it is called again (``fresh``: from the start). Raises what a
    Pipeline raises for the defaults, and NotAcceptedError for a model that a bad quantisation has damaged; a
    setting that cannot run is left out with its error.
    """
    if not 0 < options.seconds < math.inf:
        raise ConfigError(f"--seconds: expected more than 0, got {options.seconds:g}")
    base = options.config({})
    options.asked().check()
    check_evaluator()
    model = open_model(
        base.model, base.provider, base.device, input_size=base.input_size, options=base.provider_options
    )
    if why := damage(model):
        raise NotAcceptedError(
            f"{why}; nothing is tuned: tune the model that it was made from (framerail eval --original MODEL "
            "measures what this one has lost)"
        )
    located = locate(base.model)
    if located.sha256 != model.sha256:
        raise _changed(model)
    key = {
        "run": {**options.run, "input_size": base.input_size},  # however it was written
        "source": options.source,
        "footage": list(identity(options.source)),
        "read": embedded(model),
        "seconds": options.seconds,
        "loss": options.asked().limit,
    }
    with profiles.alone(_journal(located, base)):
        _tuned(options, base, model, located, key, out, err, as_json=as_json)


def _tuned(
    options: Options,
    base: Config,
    model: Model,
    located: Located,
    key: Mapping[str, Any],
    out: Console,
    err: Console,
    *,
    as_json: bool,
) -> None:
    path, begun_with = _journal(located, base), profiles.told_apart_by(located)
    if options.fresh:
        path.unlink(missing_ok=True)
    journal = Journal(path, key)
    tell = partial(err.print, highlight=False, soft_wrap=True)
    if journal.resumed:
        trials = f"{journal.resumed} trial{'s' * (journal.resumed != 1)}"
        tell(f"going on where an earlier tuning was interrupted, after {trials}")
    settings = Settings(warm_up=1.0, window=options.seconds / 3, most=options.seconds)

    disturbed: list[str] = []

    def check() -> None:
        """Raise ModelChangedError where the model is no longer what it was."""
        try:
            now = profiles.told_apart_by(locate(base.model))
        except ModelError:
            now = []  # a card that is being written, a file that is away
        if now != begun_with:
            raise _changed(model)

    def run(setting: Setting) -> float:
        try:
            found = apart(trial, options.config(setting), settings)
        finally:  # what failed may have failed for that
            check()
        if "model" not in setting and found["model"]["sha256"] != model.sha256:
            raise _changed(model)
        disturbed.extend(note for note in found["notes"] if note.startswith("disturbed"))
        return float(found["fps"])

    climb = Climb(run, _Loss(options.asked()), options.asked().limit, journal, tell)
    copies: list[Copy] = []

    def copied(precision: str) -> Copy:
        asked = replace(options.asked(), precision=precision)
        copies.append(made(asked, model, err, tell, fresh=options.fresh))
        if copies[-1].path is None:
            tell(f"no copy in {precision}: {copies[-1].why}")
        return copies[-1]

    try:
        best = climb.best({}, _steps(options, model, copied, tell))
        check()
    except KeyboardInterrupt:
        again = "the same command without --fresh" if options.fresh else "the same command"
        tell(f"interrupted: what was tried is kept, and {again} goes on from there")
        raise
    except ModelChangedError:
        journal.remove()
        raise
    report = _report(options, model, climb, best, copies)
    if disturbed:
        count = f"{len(disturbed)} trials were" if len(disturbed) > 1 else "1 trial was"
        tell(f"note: {count} {disturbed[-1]}; another setting may win on a quiet machine")
    report["profile"] = str(profiles.save(located, report, base.input_size))
    journal.remove()
    if as_json:
        print(json_text(report))
    else:
        _print(report, out)


def _journal(model: Located, base: Config) -> Path:
    return profiles.path_for(model, base.input_size).with_suffix(".trials.json")


def _changed(model: Model) -> ModelChangedError:
    return ModelChangedError(
        f"the file of model {model.name!r}, or its card, became another one while it was tuned; nothing is "
        "kept: tune anew"
    )


def _steps(
    options: Options, model: Model, copied: Callable[[str], Copy], tell: Callable[[str], None]
) -> Iterator[Step]:
    """What there is to try, of all that is not given; smaller copies of the model are made in their turn."""
    given, cores = options.run, usable_cores()
    others = [name for name in on_offer() if name != model.session.provider]
    if "provider" not in given and others:
        yield Step("provider", [{"provider": name} for name in others])
    copies = [copied(precision) for precision in _PRECISIONS.get(model.session.provider, ("fp16",))]
    smaller = [{"model": str(copy.path)} for copy in copies if copy.path is not None]
    if smaller:
        yield Step("precision", smaller, changes_answers=True)
    if not {"infer_workers", "infer_threads"} & set(given):
        yield Step("concurrency", list(concurrencies(cores)))
        yield Step("spinning", [{"infer_spinning": True}])
    if "batch" not in given and model.max_batch is None:
        yield Step(
            "batch", [{"batch": int(size)} for size in usual(model, {"batch": ()})["batch"] if size != "1"]
        )
    if "fuse" not in given:
        try:
            fusion_for(model)
            yield Step("fused preprocessing", [{"fuse": True}])
        except ModelError as error:
            tell(f"not tried: {error}")
    if "input_size" not in given and model.spec.stride is not None:
        sizes = usual(model, {"input-size": ()})["input-size"][:-1]
        yield Step("input size", [{"input_size": size} for size in sizes], changes_answers=True)


class _Loss:
    """The AP that a setting costs: on labelled pictures, or against the defaults on the source."""

    def __init__(self, asked: Quantisation) -> None:
        self._asked = asked
        self._before: Mapping[str, float] | None = None

    def __call__(self, setting: Setting) -> float:
        if self._before is None:
            self._before = self._aps(self._asked, self._asked.model)
        sized = replace(self._asked, input_size=setting.get("input_size", self._asked.input_size))
        now = self._aps(sized, setting.get("model", self._asked.model))
        return max(before - now.get(name, 0.0) for name, before in self._before.items())

    def _aps(self, sized: Quantisation, model: str) -> Mapping[str, float]:
        asked = self._asked
        if asked.images is not None and asked.annotations is not None:
            measured = against_labels(sized.config(model), asked.images, asked.annotations, None, _quietly)
            return aps(measured.report)
        steps = [step + 1 if step > 1 else 1 for step in asked.steps()]
        reference = asked.config(asked.model, steps, 0.25)
        measured = against_reference(sized.config(model, steps), reference, asked.share, _quietly)
        return weighted(measured.report)


def _quietly(frames: Iterable[Frame], _total: int | None) -> Iterable[Frame]:
    return frames


def _report(
    options: Options, model: Model, climb: Climb, best: Tried, copies: Sequence[Copy]
) -> dict[str, Any]:
    about = machine()
    default = next(tried for tried in climb.tried if not tried.setting)
    return {
        "kind": "framerail profile",
        "date": about["date"],
        "machine": about,
        "model": {"name": model.name, "sha256": model.sha256},
        "source": redact(options.source),
        "provider": best.setting.get("provider", model.session.provider),
        "settings": dict(best.setting),
        "input_size": options.config({}).input_size,
        "copy_sha256": locate(best.setting["model"]).sha256 if "model" in best.setting else None,
        "speedup": best.rate / default.rate,
        "ap_loss": max(best.ap_loss or 0.0, 0.0),
        "truth": "labels" if options.images is not None else "its own detections on the source",
        "fps": best.rate,
        "default_fps": default.rate,
        "tried": [
            {
                "setting": dict(each.setting),
                "fps": each.rate,
                "rates": list(each.rates),
                "error": each.error,
                "ap_loss": each.ap_loss,
            }
            for each in climb.tried
        ],
        "copies": [
            {
                "precision": copy.precision,
                "sha256": copy.sha256,
                "ap_loss": copy.ap_loss,
                "measured": copy.report.get("measured"),
                "accepted": copy.report.get("accepted", False),
                "why": copy.why,
            }
            for copy in copies
        ],
    }


def _print(report: Mapping[str, Any], out: Console) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("setting", "frames/s", "× defaults", ""):
        table.add_column(heading, justify="right" if heading in ("frames/s", "× defaults") else "left")
    for each in report["tried"]:
        rate = f"{each['fps']:,.1f}" if each["rates"] else "–"
        times = f"{each['fps'] / report['default_fps']:.2f}" if each["rates"] else ""
        best = "taken" if each["setting"] == report["settings"] else ""
        table.add_row(said(each["setting"]), rate, times, each["error"] or best)
    for copy in report["copies"]:
        if not copy["accepted"]:
            table.add_row(f"in {copy['precision']}", "–", "", f"no copy: {copy['why']}")
    out.print(table)
    out.print(
        f"{report['model']['name']}: {said(report['settings'])}: {report['fps']:,.1f} frames/s, "
        f"{report['speedup']:.2f} x the defaults, {report['ap_loss']:.3f} AP lost against {report['truth']}",
        highlight=False,
        soft_wrap=True,
    )
    size = report["input_size"]
    run = "run" if size is None else f"run --input-size {size[1]}x{size[0]}"
    meant = f"{run} goes by it from now on (--no-profile: not)"
    meant = meant if report["settings"] else f"{run} stays as it is"
    out.print(
        f"{meant}: {report['profile']}",
        highlight=False,
        soft_wrap=True,
    )
