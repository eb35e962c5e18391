"""``framerail eval``: a detector's AP and speed as a table or JSON, and whether it is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.config import Config, make_config
from pipeline.errors import ConfigError, NotAcceptedError
from pipeline.evaluation import (
    LEAST_SCORE,
    PREFIXES,
    Measured,
    against_labels,
    against_reference,
    check_evaluator,
)
from pipeline.evaluation.verdict import compare, objections
from pipeline.printable import json_text
from pipeline.progress import progress as shown

METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
_ROWS = {"": "boxes", "mask_": "masks", "keypoints_": "keypoints", "rotated_": "rotated boxes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure, and against what.

    ``run`` holds keys of ``Config``: model, provider, conf_threshold, classes, … Either ``images`` and
    ``annotations``, or ``sources`` with one or both of ``reference`` (else the model itself) and
    ``reference_provider`` (else cpu).
    """

    images: str | None = None
    annotations: str | None = None
    sources: Sequence[str] = ()
    reference: str | None = None
    reference_provider: str | None = None
    reference_conf: float | None = None
    """Its detections above this confidence are the truth; None: .25."""
    every_nth: int | None = None
    limit: int | None = None
    """Pictures, of each source."""
    min_ap: float | None = None
    """The least that every AP which is measured must reach."""
    original: str | None = None
    """The float model that a quantised one was made from, measured on the same labelled pictures."""
    max_ap_loss: float | None = None
    """How much lower than the original's an AP may be; None: .01."""
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def compares(self) -> bool:
        """Whether another detector says what is true."""
        return (self.reference, self.reference_provider) != (None, None)

    def check(self) -> None:
        """Raise ConfigError for options that cannot be meant, or not together."""
        shares = {
            "--min-ap": self.min_ap,
            "--reference-conf": self.reference_conf,
            "--max-ap-loss": self.max_ap_loss,
        }
        for name, value in shares.items():
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name}: expected 0 to 1, got {value!r}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit: expected at least 1, got {self.limit}")
        given = {
            "SOURCE": self.sources,
            "--reference-conf": self.reference_conf is not None,
            "--every-nth": self.every_nth is not None,
        }
        if self.max_ap_loss is not None and self.original is None:
            raise ConfigError("--max-ap-loss needs --original MODEL, the float model that lost nothing yet")
        if self.original is not None and self.compares:
            raise ConfigError("--original goes with labelled pictures; without them it is the --reference")
        labelled = {"--images": self.images is not None, "--annotations": self.annotations is not None}
        if self.compares and any(labelled.values()):
            raise ConfigError("give either --images with --annotations, or --reference with SOURCE; not both")
        if self.compares and not self.sources:
            raise ConfigError("--reference needs one or more SOURCE to look at (sample: is the bundled clip)")
        if not self.compares and not all(labelled.values()):
            raise ConfigError(
                "nothing says what is true: give --images DIR and --annotations instances.json, or "
                "--reference MODEL (or --reference-provider NAME) and one or more SOURCE"
            )
        if not self.compares and any(given.values()):
            wrong = next(name for name, is_given in given.items() if is_given)
            raise ConfigError(f"{wrong} goes with --reference; labelled pictures are --images DIR")

    def configs(self) -> tuple[Config, Config]:
        """The detector's config and the reference's. Raises ConfigError."""
        addresses = self.sources or [str(self.images)]
        every_nth = 1 if self.every_nth is None else self.every_nth
        streams = [{"source": address, "every_nth": every_nth} for address in addresses]
        config = make_config({"conf_threshold": LEAST_SCORE, **self.run, "streams": streams})
        reference = {
            **self.run,
            "streams": streams,
            "model": self.reference or config.model,
            "provider": self.reference_provider or "cpu",
            "conf_threshold": 0.25 if self.reference_conf is None else self.reference_conf,
        }
        return config, make_config(reference)


def evaluate(options: Options, out: Console, err: Console, *, as_json: bool) -> None:
    """Measure and print: JSON to standard output, or a table to ``out``; progress goes to ``err``.

    Raises, beside what ``evaluation`` raises: a group of SourceErrors, after printing, where a source ended
    before its time; NotAcceptedError (exit code 4) where one of the APs that are measured, of boxes, masks,
    keypoints or rotated boxes, is below ``min_ap``, or by more than ``max_ap_loss`` below the original's; or
    where a quantised model is compared with no original and looks damaged (``runtime.damage``).
    """
    check_evaluator()
    options.check()
    config, reference = options.configs()
    progress = partial(shown, err, "pictures")
    if options.compares:
        measured = against_reference(config, reference, options.limit, progress)
    else:
        labels = (str(options.images), str(options.annotations), options.limit, progress)
        measured = against_labels(config, *labels)
        if options.original is not None:
            whole = against_labels(config.model_copy(update={"model": options.original}), *labels)
            compare(measured.report, whole.report)
    report = measured.report
    against = objections(report, options.min_ap, options.max_ap_loss)
    report["min_ap"] = options.min_ap
    asked = options.min_ap is not None or options.original is not None
    report["accepted"] = False if against else True if asked else None
    _print(measured, out, as_json)
    if measured.failures:
        raise ExceptionGroup("a source ended before its time", measured.failures)
    if against:
        raise NotAcceptedError("; ".join(against))


def _print(measured: Measured, out: Console, as_json: bool) -> None:
    report = measured.report
    if as_json:
        print(json_text(report))
        return
    pictures = report["pictures"]["measured"]
    what = (
        report["truth"]
        or f"the detections of {report['reference']['name']} above {report['reference']['conf']}"
    )
    out.print(f"{report['model']['name']} against {what}", style="italic", highlight=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD)
    rows = [PREFIXES[kind] for kind in report["iou_types"]]
    recalls = [key.removeprefix(row) for row in rows for key in report if key.startswith(f"{row}AR")]
    columns = tuple(dict.fromkeys((*METRICS, *recalls)))
    table.add_column("")
    for prefix in rows:
        table.add_column(_ROWS[prefix], justify="right")
    for key in columns:
        table.add_row(key, *(_figure(report.get(f"{prefix}{key}")) for prefix in rows))
    out.print(table)
    out.print(_classes(report))
    out.print(_speed(report))
    out.print(
        f"{pictures} pictures, {report['objects']} objects; at most {report['max_detections']} detections a "
        f"picture; {report['evaluator']}",
        highlight=False,
        soft_wrap=True,
    )


def _classes(report: dict[str, Any]) -> Table:
    table = Table(title="By class", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("class")
    further = [f"{PREFIXES[kind]}AP" for kind in report["iou_types"][1:]]
    headings = ("objects", "detections", "AP", "AP50", "AP75", f"AR{report['max_detections']}", *further)
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, row in sorted(report["classes"].items(), key=lambda item: -item[1]["objects"]):
        if row["objects"]:
            table.add_row(name, *(_figure(row[heading]) for heading in headings))
    return table


def _speed(report: dict[str, Any]) -> Table:
    title = "Median ms a picture, one picture at a time"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    table.add_column("provider")
    stages = ("preprocess_ms", "infer_ms", "postprocess_ms", "pictures_per_second")
    for stage in stages:
        table.add_column(stage.removesuffix("_ms").replace("_per_second", "/s"), justify="right")
    for each in filter(None, (report["model"], report["reference"] or report.get("original"))):
        provider = each["provider"].removesuffix("ExecutionProvider")
        table.add_row(each["name"], provider, *(f"{each[stage]:.2f}" for stage in stages))
    return table


def _figure(value: float | int | None) -> str:
    """A share to three places, a count as it is, nothing where there was nothing to find."""
    return "–" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
