"""``bench --sweep precision``: the model as it is, and smaller copies of it, with what each has lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console

from pipeline import profiles
from pipeline.bench.axes import PRECISIONS, Planned
from pipeline.config import Config, make_config
from pipeline.copies.kept import Copy, made
from pipeline.copies.loss import Options
from pipeline.runtime.model import Model
from pipeline.runtime.operators import quantised

_CPU = "CPUExecutionProvider"
_REMEDY = "to measure it all the same, make one with models quantize --max-ap-loss 1 and give it as --model"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A point that is to be measured in one precision.

    ``about`` is the point's ``precision`` in the result, ``notes`` are to stand beside it; ``error`` says
    why there is nothing to measure.
    """

    planned: Planned
    about: Mapping[str, Any]
    notes: Sequence[str] = ()
    error: str = ""

    def noted(self, measured: Mapping[str, Any]) -> list[str]:
        """The notes, with what only the measured point tells."""
        notes, on_cpu = [*self.notes], measured["provider"]["active"] == _CPU
        if self.about.get("asked") == "float16" and on_cpu:
            notes.append("the CPU provider computes float16 in float32, with casts around: it is for GPUs")
        if self.about.get("copy_sha256") is not None and not on_cpu:
            notes.append("what it has lost was measured on the CPU provider")
        return notes


def prepared(
    planned: Sequence[Planned], model: Model, err: Console, tell: Callable[[str], None]
) -> list[Prepared]:
    """Make, or find, the copies that ``planned`` ask for, each calibrated on the sources that are measured.

    ``model`` is the one as it is. A copy that cannot be had is an ``error`` of its points. Input sizes
    have copies of their own, whose loss is measured at that size. Raises ModelError.
    """
    as_it_is = _as_it_is(model)
    copies: dict[tuple[str, str | None], Copy] = {}
    found = []
    for point in planned:
        asked, notes = point.asked["precision"], _profile_notes(point.config)
        config = _changed(point.config, profile=False)
        about: dict[str, Any] = {
            "asked": asked,
            "of": {"name": model.name, "sha256": model.sha256},
            "copy_sha256": None,
        }
        kind = PRECISIONS[asked]
        if kind is None:
            # Of what a quantised file has lost against its original nothing is known here.
            about |= {"ap_loss": None if as_it_is else 0.0, "measured": None, "accepted": None}
            found.append(Prepared(replace(point, config=config), about, [*as_it_is, *notes]))
            continue
        size = _size(config)
        if (kind, size) not in copies:
            copies[kind, size] = made(_options(config, kind, size), model, err, tell)
        copy = copies[kind, size]
        about |= {
            "copy_sha256": copy.sha256,
            "ap_loss": copy.ap_loss,
            "measured": copy.report.get("measured"),
            "accepted": copy.report.get("accepted"),
            "in_float": len(copy.report["in_float"]) if "in_float" in copy.report else None,
        }
        if copy.path is None:
            error = f"{asked} refused: {copy.why}; {_REMEDY}" if copy.report else f"no {asked}: {copy.why}"
            found.append(Prepared(point, about, error=error))
        else:
            config = _changed(config, model=str(copy.path))
            found.append(Prepared(replace(point, config=config), about, notes))
    return found


def unchanged(planned: Sequence[Planned]) -> list[Prepared]:
    """The points of a benchmark that does not ask for precisions."""
    return [Prepared(point, {}) for point in planned]


def _options(config: Config, kind: str, size: str | None) -> Options:
    sources = list(dict.fromkeys(stream.source for stream in config.streams))
    return Options(model=config.model, calibrate=sources, precision=kind, input_size=size)


def _size(config: Config) -> str | None:
    if config.input_size is None:
        return None
    height, width = config.input_size
    return f"{width}x{height}"


def _changed(config: Config, **keys: Any) -> Config:
    return make_config({**config.model_dump(exclude_unset=True), **keys}, where="bench")


def _as_it_is(model: Model) -> list[str]:
    """What to say of a file that is not in float32."""
    how = quantised(model.session.path) or ("float16" if model.spec.dtype == np.float16 else "")
    return [f"the file as it is, which is not float32: {how}"] if how else []


def _profile_notes(config: Config) -> list[str]:
    """A profile may name a copy itself, and is no copy's own: all are measured without."""
    profile = profiles.applied(config)[1]
    if profile is None:
        return []
    return [f"without the profile {profile.path}, which may choose a precision itself"]
