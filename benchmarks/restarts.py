"""A camera's server killed and started again, over and over: does the stream come back, and what is left?

``python -m benchmarks.restarts [--kills 200] [--model M] [--seed 1] [--json FILE]``

A GStreamer RTSP server plays a clip on loopback; a line with that camera and another stream runs in this
process. The server is killed at random moments (while it plays, and while the line is connecting) and
started again after a random pause. For each restart: the seconds from the moment when it listens again
to the first result. Threads, descriptors and memory are looked at each time that results flow again; memory's
slope is the median of all pairwise slopes (Theil-Sen) over the second half. The exit code is 1 where a limit
is broken.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import tempfile
import threading
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil

from benchmarks.verdicts import Row, end
from pipeline.app import Pipeline
from pipeline.bench import machine
from pipeline.config import make_config
from pipeline.frame import Result
from pipeline.memory import set_malloc
from tests.clips import make_clip
from tests.servers import free_port, gst_rtsp_server

BACKOFF_MOST = 1.0
LIMIT_SECONDS = BACKOFF_MOST + 2.0
LIMIT_MB = 1.0
"""Growth of memory over a hundred restarts."""
PATIENCE = 30.0


class Watcher:
    """Iterates the line, and knows when the last result of each stream came."""

    def __init__(self, line: Pipeline) -> None:
        self.latest: dict[str, float] = {}
        self.came = threading.Condition()
        self._line = line
        self.thread = threading.Thread(target=self._run, name="results")
        self.thread.start()

    def _run(self) -> None:
        for result in self._line:
            self._took(result)

    def _took(self, result: Result) -> None:
        with self.came:
            self.latest[result.stream] = time.monotonic()
            self.came.notify_all()

    def after(self, name: str, moment: float) -> float | None:
        """Seconds from ``moment`` to the first result after it; None where none came in time."""
        with self.came:
            self.came.wait_for(lambda: self.latest.get(name, 0.0) > moment, PATIENCE)
            latest = self.latest.get(name, 0.0)
        return latest - moment if latest > moment else None


def measure(kills: int, model: str, seed: int) -> dict[str, Any]:
    """Kill and restart; what was found, as data."""
    draw = random.Random(seed)
    process = psutil.Process()
    port = free_port()
    camera = {
        "source": f"rtsp://127.0.0.1:{port}/stream", "name": "camera", "backoff": 0.25,
        "backoff_max": BACKOFF_MOST, "stall_timeout": 5, "open_timeout": 5,
    }  # fmt: skip
    other = {"source": "synthetic:320x240@20", "name": "other", "live": True}
    config = make_config({"streams": [camera, other], "model": model, "provider": "cpu"})
    seconds: list[float | None] = []
    looks: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, Pipeline(config) as line:
        clip = make_clip(Path(folder) / "clip.mp4", frames=3000, fps=25, size=(320, 240), gop=25)
        watcher = Watcher(line)
        try:
            for kill in range(kills + 1):
                with gst_rtsp_server(clip, port=port) as server:
                    up = time.monotonic()
                    took = watcher.after("camera", up)
                    if kill:
                        seconds.append(took)
                    looks.append(look(process))
                    time.sleep(draw.random() * 2)
                    server.kill()
                time.sleep(draw.random() * 1.5)
                told(kill, kills, took)
        finally:
            line.stop()
            watcher.thread.join()
        counts = {name: account.counts() for name, account in line.accounts.streams.items()}
        conserved = not line.accounts.violations(line.left_in_line())
        reconnects = dict(line.accounts.streams["camera"].link.reconnects)
    came = [each for each in seconds if each is not None]
    settled = looks[len(looks) // 2 :]  # in the first half caches and pools still fill up
    return {
        "kind": "framerail restarts",
        "machine": machine(),
        "asked": {"kills": kills, "model": model, "seed": seed},
        "recovered": len(came),
        "seconds": {
            "median": statistics.median(came),
            "p95": sorted(came)[int(0.95 * (len(came) - 1))],
            "most": max(came),
        },
        "reconnects": reconnects,
        "frames": {name: count.emitted for name, count in counts.items()},
        "conserved": conserved,
        "growth": {
            "mb_per_100": 100 * slope([each["mb"] for each in settled]),
            "threads": settled[-1]["threads"] - settled[0]["threads"],
            "descriptors": settled[-1]["descriptors"] - settled[0]["descriptors"],
        },
        "looks": looks,
    }


def look(process: psutil.Process) -> dict[str, float]:
    gc.collect()
    return {
        "mb": process.memory_info().rss / 1e6,
        "threads": process.num_threads(),
        "descriptors": process.num_fds(),
    }


def slope(values: list[float]) -> float:
    """The median of the slopes between all pairs, per value (Theil 1950, Sen 1968)."""
    pairs = combinations(enumerate(values), 2)
    return statistics.median([(b - a) / (j - i) for (i, a), (j, b) in pairs] or [0.0])


def told(kill: int, kills: int, took: float | None) -> None:
    if kill % 10 == 0:
        print(f"{kill} of {kills}: {'not back' if took is None else f'back after {took:.2f} s'}", flush=True)


def limits(found: dict[str, Any]) -> list[Row]:
    """What is promised: its name, what was measured, the limit, and whether it holds."""
    growth, asked = found["growth"], found["asked"]["kills"]
    return [
        ("restarts after which the stream came back", found["recovered"], asked, found["recovered"] == asked),
        ("median seconds from server up to first result", found["seconds"]["median"], LIMIT_SECONDS,
         found["seconds"]["median"] <= LIMIT_SECONDS),
        ("MB of memory per 100 restarts", growth["mb_per_100"], LIMIT_MB, growth["mb_per_100"] <= LIMIT_MB),
        ("more threads at the end", growth["threads"], 0, growth["threads"] <= 0),
        ("more descriptors at the end", growth["descriptors"], 0, growth["descriptors"] <= 0),
        ("frames unaccounted for (0: none)", 0 if found["conserved"] else 1, 0, found["conserved"]),
    ]  # fmt: skip


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--model", default="nanodet-g")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    set_malloc()  # as the command does
    found = measure(options.kills, options.model, options.seed)
    end(found, limits(found), options.json)


if __name__ == "__main__":
    main()
