"""``framerail plan``: how many cameras of a kind this machine carries with this model."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.bench.clip import SECONDS, make_clip, resolution
from pipeline.bench.isolated import apart
from pipeline.bench.machine import machine
from pipeline.bench.plan import Limits, search
from pipeline.bench.point import trial
from pipeline.bench.steady import Settings
from pipeline.config import Config, make_config
from pipeline.errors import ConfigError, PipelineError
from pipeline.printable import json_text

MOST_FPS = 1000
"""Of a camera. The clip that stands for it is made beforehand, picture by picture."""


class NotOneError(PipelineError):
    """Not even one camera can be carried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """As on the command line; ``run`` holds keys of ``Config``."""

    source: str | None = None
    fps: float = 25.0
    resolution: str = "1080p"
    p99_age_ms: float = 200.0
    max_drop: str = "0.1%"
    every_nth: int | None = None
    most: int = 64
    seconds: float = 10.0
    confirm: float = 60.0
    run: dict[str, Any] = field(default_factory=dict)

    def limits(self) -> Limits:
        """Raises ConfigError for what cannot be meant."""
        numbers = {
            "--fps": self.fps,
            "--p99-age-ms": self.p99_age_ms,
            "--seconds": self.seconds,
            "--confirm": self.confirm,
            "--most": self.most,
        }
        for name, value in numbers.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{name}: expected more than 0, got {value:g}")
        if self.fps > MOST_FPS:
            raise ConfigError(f"--fps: expected at most {MOST_FPS}, got {self.fps:g}")
        if self.every_nth is not None and self.every_nth < 1:
            raise ConfigError(f"--every-nth: expected 1 or more, got {self.every_nth}")
        return Limits(self.fps, self.p99_age_ms, share(self.max_drop))


def share(text: str) -> float:
    """``0.1%`` or ``0.001`` to .001. Raises ConfigError."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise ConfigError(f"--max-drop: expected a share such as 0.1% or 0.001, below 1; got {text!r}")
    return value


def plan(options: Options, out: Console, err: Console, *, as_json: bool) -> None:
    """Search, and print a table to ``out`` or JSON to standard output; progress goes to ``err``.

    Raises what a Pipeline raises, and NotOneError (exit code 4), after printing, where the answer is 0.
    Where a trial raises, or the search is interrupted, the trials before it are printed, without an answer.
    """
    limits, size = options.limits(), resolution(options.resolution)
    report: dict[str, Any] = {
        "kind": "framerail plan",
        "machine": machine(),
        "asked": {
            "fps": options.fps,
            "resolution": list(size),
            "p99_age_ms": options.p99_age_ms,
            "max_drop": limits.max_drop,
            "seconds": options.seconds,
            "confirm_seconds": options.confirm,
            "source": options.source or "sample:",
        },
        **dict.fromkeys(("cameras", "at_most", "held_seconds", "gives_out")),
        "trials": [],
    }
    ending: BaseException | None = None
    with tempfile.TemporaryDirectory(prefix="framerail-plan-") as folder:
        frames = f"{max(round(SECONDS * options.fps), 1)} frames of {size[0]}x{size[1]}"
        err.print(f"making a clip: {frames} at {options.fps:g} frames/s", highlight=False)
        clip = str(make_clip(Path(folder) / "camera.mp4", options.source or "sample:", size, options.fps))
        last: dict[str, Any] = {}

        def run(count: int, confirm: bool) -> Mapping[str, Any]:
            seconds = options.confirm if confirm else options.seconds
            err.print(f"{count} camera{'s' * (count > 1)}, {seconds:g} s", highlight=False)
            warm_up, window = min(3.0, seconds / 3), seconds / 3
            settings = Settings(warm_up=warm_up, window=window, tolerance=math.inf, most=seconds)
            last.update(apart(trial, _config(options, clip, count), settings))
            return last

        try:
            report |= search(run, limits, options.most, report["trials"])
        except (KeyboardInterrupt, PipelineError, ExceptionGroup) as error:
            if not report["trials"]:
                raise
            ending = error
    report |= {key: last[key] for key in ("model", "provider", "settings", "profile")}
    if as_json:
        print(json_text(report))
    else:
        _print(report, out)
    if ending is not None:
        err.print("no answer: the search did not come to its end", highlight=False)
        raise ending
    if not report["cameras"]:
        why = "; ".join(report["gives_out"]["broken"].values())
        raise NotOneError(f"not one such camera can be carried: {why}")


def _config(options: Options, clip: str, count: int) -> Config:
    streams = [
        {
            "source": clip,
            "name": f"camera-{number + 1}",
            "pace": options.fps,
            "loop": True,
            "every_nth": options.every_nth or 1,
        }
        for number in range(count)
    ]
    return make_config({**options.run, "streams": streams})


def _print(report: Mapping[str, Any], out: Console) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("cameras", "", "frames/s", "p99 age ms", "drops", "cores", "MB"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for each in report["trials"]:
        table.add_row(
            str(each["streams"]) + (" at length" if each["confirming"] else ""),
            "holds" if each["holds"] else ", ".join(each["broken"]) + " over",
            f"{each['fps']:.1f}",
            f"{each['p99_age_ms']:.0f}",
            f"{each['dropped_share']:.2%}",
            f"{each['cores_used']:.2f}",
            f"{each['peak_mb']:.0f}",
        )
    out.print(table)
    if report["cameras"] is not None:
        _print_answer(report, partial(out.print, highlight=False, soft_wrap=True))
    for note in dict.fromkeys(note for each in report["trials"] for note in each["notes"]):
        out.print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True)


def _print_answer(report: Mapping[str, Any], say: Callable[[str], None]) -> None:
    asked, count = report["asked"], report["cameras"]
    width, height = asked["resolution"]
    say(
        f"{count} camera{'s' * (count != 1)} of {width}x{height} at {asked['fps']:g} frames/s with "
        f"{report['model']['name']} on {report['provider']['active']} ({report['machine']['cpu']}, "
        f"{report['machine']['cores']} cores)"
        + (f": held for {report['held_seconds']:.0f} s" if count else "")
    )
    if report["profile"] is not None:
        say(f"by the profile that tune has made, {report['profile']} (--no-profile leaves it out)")
    if report["at_most"]:
        say("more were not tried (--most)")
    elif report["gives_out"]:
        first, bound = report["gives_out"], report["gives_out"]["bottleneck"]
        broken = "; ".join(first["broken"].values())
        what = "no bottleneck" if bound["what"] == "none" else bound["what"]
        say(f"with one more, for {first['seconds']:.0f} s: {broken}. {what}: {bound['why']}")
