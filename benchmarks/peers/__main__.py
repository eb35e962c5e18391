"""Measure framerail beside its peers: the same model, clip and thresholds, each in a process of its own.

First every peer runs once, and what it detects is compared with the plain loop's: of the boxes over a
score of .3 on either side, 99.5 % have one with an IoU of .98 on the other. Then come rounds in which all
take turns. The medians of the rates and of framerail's rate ÷ each peer's, taken within a round, are
printed as a table, in Markdown; --json keeps them with machine, versions, date and every round.

    python -m benchmarks.peers.setup
    python -m benchmarks.peers.clip VIDEO clip.mp4
    python -m benchmarks.peers --model yolov8n.onnx --clip clip.mp4 --json result.json

The model is a YOLOv8-style ONNX file, [1, 3, S, S] to [1, 4 + classes, boxes]; the clip is longer than
warm-up and frames together. Measure on a quiet machine: what others used of it is noted. The exit code is
1 where something cannot be measured, or framerail does not detect what the plain loop does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.measure import Asked, measure
from benchmarks.peers.report import markdown
from benchmarks.peers.setup import VENVS
from benchmarks.peers.table import OURS, PEERS
from pipeline.errors import PipelineError


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON; 0 when framerail detects what the plain loop does."""
    options = vars(_parser().parse_args(arguments))
    kept: Path | None = options.pop("json")
    try:
        report = measure(Asked(**options), tell)
    except PipelineError as error:
        tell(f"error: {error}")
        return 1
    print(markdown(report), end="")
    if kept is not None:
        kept.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if report["peers"][OURS]["agreement"]["equal"] else 1


def tell(text: str) -> None:
    """Progress, so that standard output is the table alone."""
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="ONNX file")
    add("--clip", required=True, help="video file; the published figures are of 1080p H.264")
    add("--rounds", type=int, default=7, help="default: 7; 0 only compares the detections")
    add("--frames", type=int, default=400, help="that are timed in each run; default: 400")
    add("--warm-up", type=int, default=50, help="frames before them; default: 50")
    add("--peers", type=_names, default=tuple(PEERS), help=f"default: all, {','.join(PEERS)}")
    add("--conf", type=float, default=0.25, help="score threshold; default: .25")
    add("--iou", type=float, default=0.7, help="of NMS; default: .7")
    add("--max-detections", type=int, default=300, help="of a frame; default: 300")
    add("--options", type=json.loads, default={}, metavar="JSON", help="keys of framerail's Config")
    add(
        "--tuned",
        metavar="MODEL",
        nargs="?",
        const="",
        help="framerail as framerail tune left it, too; or with this model, such as a quantised one",
    )
    add("--tuned-options", type=json.loads, default={}, metavar="JSON", help="keys of Config there")
    add("--venvs", type=Path, default=VENVS, help="where benchmarks.peers.setup made the environments")
    add("--json", type=Path, metavar="FILE", help="write the result")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no peer {unknown[0]!r}; there are: {', '.join(PEERS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
