"""Mutated videos, models and configs: nothing but an error of ours may come of them.

``python -m benchmarks.fuzz [--videos 2000] [--models 1000] [--configs 1000] [--seed 1] [--json FILE]``

Small valid files are damaged (bits flipped, bytes changed, pieces cut out, doubled, moved, zeroed) and then
opened as framerail opens them, in a child process that is replaced when it dies. Fine: pictures, a model or a
config comes of it, or a PipelineError. Not fine: any other exception, no answer within the time limit, and a
process that ends by a signal. Each case is made from its number and the seed alone, so that one can be run
again by itself: ``--videos 1 --first 1234``. The exit code is 1 where something was not fine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.bench import machine
from pipeline.errors import PipelineError

LIMIT_SECONDS = 60.0
"""For one case, on a busy machine: identifying a model that nothing fits takes some seconds."""
PICTURES = 60
ROOT = Path(__file__).parents[1]

Case = Callable[[Path], str]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """``data`` with one to eight pieces of damage."""
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3, 5, 8))):
        if len(damaged) < 16:
            break
        at = draw.randrange(len(damaged))
        # The head of a file decides most: it is hit as often as all the rest.
        if draw.random() < 0.5:
            at = min(at, draw.randrange(min(len(damaged), 1024)))
        size = min(len(damaged) - at, draw.choice((1, 1, 4, 16, 188, 1000)))
        piece = bytes(damaged[at : at + size])
        to = draw.randrange(len(damaged))
        match draw.randrange(8):
            case 0:
                damaged[at] ^= 1 << draw.randrange(8)
            case 1:
                damaged[at : at + size] = draw.randbytes(size)
            case 2:
                del damaged[at : at + size]
            case 3:
                damaged[at:at] = piece
            case 4:
                damaged[to:to] = piece
            case 5:
                damaged[at : at + size] = bytes(size)
            case 6:
                damaged[at : at + size] = b"\xff" * size
            case _:
                del damaged[at:]
    return bytes(damaged)


def video(path: Path) -> str:
    """Read up to PICTURES pictures of it."""
    from pipeline.config import StreamConfig
    from pipeline.sources import open_source, parse_source

    stream = StreamConfig(source=str(path), open_timeout=5, stall_timeout=5)
    count = 0
    with open_source(parse_source(str(path)), stream, threading.Event()) as source:
        for picture in source:
            getattr(picture, "image", None)
            count += 1
            if count == PICTURES:
                break
    return "read"


def model(path: Path) -> str:
    """Open it on the CPU, which runs it, too."""
    from pipeline.runtime.model import open_model

    open_model(str(path), "cpu")
    return "opened"


def config(path: Path) -> str:
    """Read it."""
    from pipeline.configfile import load_config

    load_config(path)
    return "read"


CASES: dict[str, Case] = {"videos": video, "models": model, "configs": config}


def bases(kind: str, folder: Path) -> list[Path]:
    """The valid files that are damaged."""
    if kind == "configs":
        return [ROOT / "deploy" / "framerail.yaml"]
    if kind == "models":
        from benchmarks.cheap_model import write_cheap_model

        return [write_cheap_model(folder / "cheap.onnx", size=64), ROOT / "models" / "nanodet-g-416.onnx"]
    from tests.clips import make_clip

    made = []
    for name, codec, container in (
        ("h264.mp4", "libx264", None), ("hevc.mp4", "libx265", None), ("h264.ts", "libx264", "mpegts"),
        ("hevc.ts", "libx265", "mpegts"), ("mjpeg.avi", "mjpeg", None), ("mpeg4.avi", "mpeg4", None),
        ("mjpeg.mp4", "mjpeg", None),
    ):  # fmt: skip
        made.append(make_clip(folder / name, codec=codec, frames=20, size=(96, 64), format=container))
    return made


def _child(there: Connection, kind: str) -> None:
    run = CASES[kind]
    while True:
        path = there.recv()
        if path is None:
            return
        try:
            outcome = run(path)
        except PipelineError as error:
            outcome = f"refused: {type(error).__name__}"
        except BaseException as error:
            outcome = f"UNCAUGHT {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        there.send(outcome)


class Child:
    """A process that opens one file after another, and is replaced when it dies."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._here, there = self._context.Pipe()
        self._process = self._context.Process(target=_child, args=(there, self._kind), daemon=True)
        self._process.start()
        there.close()

    def open(self, path: Path) -> str:
        """What came of it: a word that begins in capitals where it was not fine."""
        self._here.send(path)
        try:
            if self._here.poll(LIMIT_SECONDS):
                return str(self._here.recv())
            outcome = f"HUNG for {LIMIT_SECONDS:g} s"
        except EOFError:
            self._process.join()
            outcome = f"CRASHED with exit code {self._process.exitcode}"
        self._end()
        self._start()
        return outcome

    def close(self) -> None:
        """End the process."""
        self._here.send(None)
        self._process.join(5)
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._here.close()


def fuzz(kind: str, count: int, first: int, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """Open ``count`` mutated files; outcomes by their number, and what was not fine, by case."""
    outcomes: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = bases(kind, folder)
        child = Child(kind)
        try:
            for number, path in cases(files, count, first, seed, folder):
                outcome = child.open(path)
                outcomes[outcome.partition(":")[0]] += 1
                if outcome[0].isupper():
                    failures.append({"case": number, "file": path.name, "outcome": outcome})
                    print(f"{kind} {number} ({path.name}): {outcome}", flush=True)
                    if keep is not None:
                        (keep / f"{kind}-{number}-{path.name}").write_bytes(path.read_bytes())
                path.unlink()
        finally:
            child.close()
    seconds = round(time.monotonic() - begun, 1)
    return {"count": count, "seconds": seconds, "outcomes": dict(outcomes), "failures": failures}


def cases(files: list[Path], count: int, first: int, seed: int, folder: Path) -> Iterator[tuple[int, Path]]:
    """The damaged files, with their numbers."""
    for number in range(first, first + count):
        draw = random.Random(f"{seed}/{number}")
        base = files[number % len(files)]
        path = folder / f"{number}-{base.name}"
        path.write_bytes(mutated(base.read_bytes(), draw))
        yield number, path


def main() -> None:
    """Open them all, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--configs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the files that were not fine here")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    report: dict[str, Any] = {"kind": "framerail fuzz", "machine": machine(), "seed": options.seed}
    for kind in CASES:
        if count := getattr(options, kind):
            report[kind] = fuzz(kind, count, options.first, options.seed, options.keep)
            print(f"{kind}: {report[kind]['outcomes']} in {report[kind]['seconds']:g} s", flush=True)
    report["limits"] = [
        {
            "what": f"of {report[kind]['count']} damaged {kind}: crashes, hangs, uncaught exceptions",
            "measured": len(report[kind]["failures"]),
            "limit": 0,
            "holds": not report[kind]["failures"],
        }
        for kind in CASES
        if kind in report
    ]
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(each["holds"] for each in report["limits"]) else 1)


if __name__ == "__main__":
    main()
