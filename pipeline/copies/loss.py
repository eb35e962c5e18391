"""What ``models quantize`` is asked for, and what a copy has lost, in AP."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import Config, make_config
from pipeline.decide import name_streams
from pipeline.errors import ConfigError
from pipeline.evaluation import LEAST_SCORE, PREFIXES, against_labels, against_reference
from pipeline.evaluation.frames import Frames
from pipeline.frame import Frame
from pipeline.runtime.model import Model
from pipeline.sources import open_source

PRECISIONS = ("int8", "fp16")
METHODS = ("minmax", "percentile", "entropy")
LABELLED_LIMIT, UNLABELLED_LIMIT = 0.01, 0.1
"""AP against another's detections is harsher than AP against labels: copies of NanoDet-g and YOLOv8n that
lose nothing on labels have .86 to .97 against the model, one of DEIMv2-Femto that loses .08 has .62."""
_UNKNOWN_STEP = 10
"""Of a source that does not say how long it is, every tenth frame: neighbours are alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to make, of what, and how much it may lose.

    ``calibrate``: sources of ``frames`` frames in all, spread over them. ``images`` and ``annotations``:
    labelled pictures to measure on; without them the model's own detections on the sources are the truth.
    ``float_layers`` None: as few as keep the loss within ``max_ap_loss`` (None: .01 with labels, else .1).
    ``seconds`` is what trying each layer may take.
    """

    model: str
    calibrate: Sequence[str]
    output: str | None = None
    precision: str = "int8"
    frames: int = 64
    method: str = "minmax"
    float_layers: int | None = None
    seconds: float = 300.0
    images: str | None = None
    annotations: str | None = None
    max_ap_loss: float | None = None
    input_size: str | None = None

    def check(self) -> None:
        """Raise ConfigError for options that cannot be meant, or not together."""
        for name, value, known in (
            ("--precision", self.precision, PRECISIONS),
            ("--method", self.method, METHODS),
        ):
            if value not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}; got {value!r}")
        if not self.calibrate:
            raise ConfigError("--calibrate: give footage that is like what the model will see")
        if self.frames < 1:
            raise ConfigError(f"--frames: expected at least 1; got {self.frames}")
        if self.float_layers is not None and self.float_layers < 0:
            raise ConfigError(f"--float-layers: expected 0 or more; got {self.float_layers}")
        if not self.seconds > 0:
            raise ConfigError(f"--seconds: expected more than 0; got {self.seconds}")
        if not 0 <= self.limit <= 1:
            raise ConfigError(f"--max-ap-loss: expected 0 to 1; got {self.max_ap_loss}")
        if (self.images is None) != (self.annotations is None):
            raise ConfigError("give --images DIR and --annotations FILE.json together")
        if self.output is not None and Path(self.output).suffix.lower() != ".onnx":
            raise ConfigError(f"--output: expected the name of an .onnx file; got {self.output!r}")
        self.config(self.model)

    @property
    def limit(self) -> float:
        """The most AP that may be lost."""
        if self.max_ap_loss is not None:
            return self.max_ap_loss
        return UNLABELLED_LIMIT if self.images is None else LABELLED_LIMIT

    def target(self, model: Model) -> Path:
        """Where the copy goes."""
        return Path(self.output or f"{model.name}-{self.precision}.onnx").expanduser()

    def config(self, model: str, every: Sequence[int] = (), conf: float = LEAST_SCORE) -> Config:
        """For one of the two models, on the sources; of each every so-manieth frame."""
        steps = every or [1] * len(self.calibrate)
        streams = [
            {"source": address, "every_nth": step, "reconnect": False}
            for address, step in zip(self.calibrate, steps, strict=True)
        ]
        base = {"model": model, "provider": "cpu", "conf_threshold": conf, "streams": streams}
        return make_config(base | ({"input_size": self.input_size} if self.input_size else {}))

    def calibration(self) -> Iterator[Frame]:
        """The frames to calibrate on. Raises what ended a source, where it gave none."""
        config = self.config(self.model, self.steps())
        for name, (spec, stream) in name_streams(config.streams).items():
            frames = Frames(spec, stream, name, self.share)
            given = 0
            for frame in frames:
                given += 1
                yield frame
            if not given and frames.error is not None:
                raise frames.error

    @property
    def share(self) -> int:
        """Frames of each source."""
        return max(1, self.frames // len(self.calibrate))

    def steps(self) -> list[int]:
        """Of each source, every how manieth frame, so that the share is spread over all of it."""
        steps = []
        for spec, stream in name_streams(self.config(self.model).streams).values():
            with closing(open_source(spec, stream, threading.Event())) as source:
                count = source.frame_count
            steps.append(_UNKNOWN_STEP if count is None else max(1, count // self.share))
        return steps


@dataclass(slots=True)
class Loss:
    """Measures copies of one model. ``of`` gives their APs, 0..1, by name; ``was`` those of the model."""

    limit: float
    truth: str
    of: Callable[[Path], Mapping[str, float]]
    was: Mapping[str, float] = field(default_factory=dict)

    def measure(self, copy: Path) -> dict[str, Any]:
        """The APs of a copy and the greatest loss among them, as JSON has them."""
        now = self.of(copy)
        # A model agrees with itself entirely.
        self.was = self.was or dict.fromkeys(now, 1.0)
        loss = max(before - now.get(name, 0.0) for name, before in self.was.items())
        rounded = [{key: round(value, 6) for key, value in each.items()} for each in (self.was, now)]
        return {"truth": self.truth, "AP_before": rounded[0], "AP": rounded[1], "loss": round(loss, 6)}

    def accepts(self, measured: Mapping[str, Any]) -> bool:
        """Whether that is little enough."""
        return bool(measured["loss"] <= self.limit)

    def said(self, measured: Mapping[str, Any]) -> str:
        """The figures in words."""
        pairs = ", ".join(
            f"{name} {before:.4f} → {measured['AP'].get(name, 0.0):.4f}"
            for name, before in measured["AP_before"].items()
        )
        return f"{pairs} ({self.truth}): the loss of {measured['loss']:.4f} is over the limit, {self.limit}"


def loss_of(options: Options, progress: Callable[[Iterable[Frame], int | None], Iterable[Frame]]) -> Loss:
    """How copies are measured: on labelled pictures where there are some, else against the model itself."""
    if options.images is not None and options.annotations is not None:
        folder, annotations = options.images, options.annotations

        def on_labels(model: Path | str) -> dict[str, float]:
            config = options.config(str(model))
            return aps(against_labels(config, folder, annotations, None, progress).report)

        loss = Loss(options.limit, os.path.basename(annotations), on_labels)
        loss.was = on_labels(options.model)
        return loss
    # Other frames than those of the calibration, as far as there are others.
    steps = [step + 1 if step > 1 else 1 for step in options.steps()]
    reference = options.config(options.model, steps, 0.25)

    def on_sources(model: Path) -> dict[str, float]:
        config = options.config(str(model), steps)
        return weighted(against_reference(config, reference, options.share, progress).report)

    return Loss(options.limit, "the model's own detections on the sources", on_sources)


def aps(report: Mapping[str, Any]) -> dict[str, float]:
    """Each AP that is measured."""
    named = {f"{prefix}AP": report.get(f"{prefix}AP") for prefix in PREFIXES.values()}
    lost = dict.fromkeys(report["lost"], 0.0)
    return lost | {name: value for name, value in named.items() if value is not None}


def weighted(report: Mapping[str, Any]) -> dict[str, float]:
    """Each AP as a mean over the objects instead of the classes.

    A class that the model believes to see twice in an hour would count as much as the one it is there for.
    """
    found = {}
    for name in aps(report):
        rows = [
            (row[name], row["objects"]) for row in report["classes"].values() if row.get(name) is not None
        ]
        weight = sum(count for _, count in rows)
        found[name] = sum(ap * count for ap, count in rows) / weight if weight else 0.0
    return found
