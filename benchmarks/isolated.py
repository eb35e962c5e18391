"""What it costs to read a source in a process of its own (``--isolate-sources``).

``python -m benchmarks.isolated CLIP [--frames N] [--rounds N] [--json FILE]``

The clip is read here and in a process of its own, in turn, each time in a fresh Python and with one thread of
video decode: pictures are converted to BGR as the line does, and the last four are held, as a line has some
under way. Told are the medians over all rounds, and their difference:

* CPU for each frame, of all processes together, beyond what opening the source and its first picture took.
* Memory of all processes together (PSS: pages that several share count in parts), at the end.
* CPU from the call that opens the source to its first picture, and the time that it takes.

Its pictures are compared, too. The exit code is 1 where a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bench import machine
from pipeline.config import StreamConfig
from pipeline.frame import Decoded
from pipeline.memory import set_malloc
from pipeline.sources import Picture, open_source, parse_source

HELD = 4
FIGURES = {
    "frame_cpu_ms": "CPU for each frame, ms",
    "memory_mb": "memory, MB",
    "first_cpu_ms": "CPU until the first picture, ms",
    "first_ms": "time until the first picture, ms",
}
LIMITS = {"frame_cpu_ms": 3.0, "memory_mb": 64.0, "first_cpu_ms": 500.0}
"""What isolation may cost a 1080p stream."""


def cpu_seconds(pids: list[int | str]) -> float:
    """Of all threads of the processes, which have to be running."""
    # The kernel's own clock of each thread; threads of a decoder live as long as it does.
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def memory_mb(pids: list[int | str]) -> float:
    kilobytes = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1000


def one(clip: str, frames: int, isolate: bool) -> dict[str, float]:
    """One reading, in this process (and a child of it)."""
    import pipeline.sources.media  # noqa: F401  (both ways begin with what the line has loaded)
    from pipeline.sources.isolated.parent import IsolatedSource

    set_malloc()  # as the command does
    config = StreamConfig(source=clip, isolate=isolate, decode_threads=1)
    held: deque[Any] = deque(maxlen=HELD)
    spec = parse_source(clip)
    before, begun = cpu_seconds(["self"]), time.perf_counter()
    with open_source(spec, config, threading.Event()) as source:
        pids: list[int | str] = ["self", *([source.pid] if isinstance(source, IsolatedSource) else [])]
        pictures = iter(source)
        held.append(next(pictures))
        first_wall, first = time.perf_counter() - begun, cpu_seconds(pids)
        count = 0
        for picture in pictures:
            assert isinstance(picture, Picture)
            if isinstance(picture.pixels, Decoded):
                picture.pixels.bgr(keep=False)  # as the preprocess stage does
            held.append(picture)
            count += 1
            if count == frames:
                break
        spent = cpu_seconds(pids) - first
        return {
            "frame_cpu_ms": 1e3 * spent / count,
            "memory_mb": memory_mb(pids),
            "first_ms": 1e3 * first_wall,
            "first_cpu_ms": 1e3 * (first - before),
        }


def differing(clip: str, frames: int) -> int:
    """Pictures that are not the same, bit for bit, both ways."""
    ways = [StreamConfig(source=clip, isolate=isolate, max_frames=frames) for isolate in (False, True)]
    here, there = (open_source(parse_source(clip), way, threading.Event()) for way in ways)
    with here, there:
        pairs = islice(zip(here, there, strict=True), frames)
        return sum(not np.array_equal(one.image, other.image) for one, other in pairs)  # type: ignore[union-attr]


def measure(clip: str, frames: int, rounds: int) -> dict[str, Any]:
    """Medians by FIGURES: ``here``, ``isolated`` and ``difference``; ``differing`` pictures; the clip."""
    found: dict[str, list[dict[str, float]]] = {"here": [], "isolated": []}
    for _ in range(rounds):
        for way, readings in found.items():
            command = [
                sys.executable,
                "-m",
                "benchmarks.isolated",
                clip,
                "--frames",
                str(frames),
                "--one",
                way,
            ]
            readings.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    result: dict[str, Any] = {
        way: {key: statistics.median(reading[key] for reading in readings) for key in FIGURES}
        for way, readings in found.items()
    }
    result["difference"] = {key: result["isolated"][key] - result["here"][key] for key in FIGURES}
    with open_source(parse_source(clip), StreamConfig(source=clip), threading.Event()) as source:
        described = {"name": Path(clip).name, "description": source.description}
    result |= {"machine": machine(), "clip": described, "rounds": rounds, "frames": frames}
    result["differing"] = differing(clip, frames)
    return result


def limits(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What is promised: its name, what was measured, the limit, and whether it holds."""
    rows = [
        (f"more {words}", result["difference"][key], LIMITS[key])
        for key, words in FIGURES.items()
        if key in LIMITS
    ]
    rows.append(("pictures that differ from those of the same process", result["differing"], 0))
    return [
        {"what": what, "measured": value, "limit": limit, "holds": value <= limit}
        for what, value, limit in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--one", choices=["here", "isolated"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one is not None:
        print(json.dumps(one(asked.clip, asked.frames, asked.one == "isolated")))
        return
    result = measure(asked.clip, asked.frames, asked.rounds)
    result["limits"] = limits(result)
    for key, words in FIGURES.items():
        print(f"{words}: {result['here'][key]:.4g} here, {result['isolated'][key]:.4g} isolated")
    for each in result["limits"]:
        verdict = "holds" if each["holds"] else "BROKEN"
        print(f"{each['what']}: {each['measured']:.4g} (limit {each['limit']:g}) {verdict}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(each["holds"] for each in result["limits"]) else 1)


if __name__ == "__main__":
    main()
