"""A line with faulty cameras, left running: is anything left behind, late, or unaccounted for?

``python -m benchmarks.soak [--minutes 60] [--model M] [--seed 1] [--json FILE]``

Four cameras: two of GStreamer's RTSP server, which is killed, stopped and started again at random, and two
that are always well. Meanwhile streams are paused, resumed, changed, removed and added, and the model is
reloaded. All choices come from the seed. Limits: the slope of memory (Theil-Sen, once settled), threads and
descriptors at the end, the well cameras' rate and p99 age, and conservation. The exit code is 1 where one is
broken.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks.restarts import Watcher, look, slope
from benchmarks.verdicts import Row, end
from pipeline.app import Pipeline
from pipeline.bench import machine
from pipeline.config import make_config
from pipeline.errors import PipelineError
from pipeline.memory import set_malloc
from tests.clips import make_clip
from tests.servers import Server, free_port, gst_rtsp_server

WELL_FPS = 10.0
LEAST_RATE = 0.98
MOST_AGE_SECONDS = 0.5
MOST_MB_PER_HOUR = 20.0


class Cameras:
    """The RTSP server: killed, stopped for a while, started again."""

    def __init__(self, clip: Path) -> None:
        self.port = free_port()
        self._clip = clip
        self._running = ExitStack()
        self.server: Server | None = None
        self.start()

    def start(self) -> None:
        """Start it where it does not run."""
        if self.server is None:
            self.server = self._running.enter_context(gst_rtsp_server(self._clip, port=self.port))

    def kill(self) -> None:
        """End it at once."""
        if self.server is not None:
            self.server.kill()
            self._running.close()
            self.server = None

    def freeze(self, seconds: float) -> None:
        """Let it say nothing for so long."""
        if self.server is not None and self.server.process is not None:
            os.kill(self.server.process.pid, signal.SIGSTOP)
            try:
                time.sleep(seconds)
            finally:
                os.kill(self.server.process.pid, signal.SIGCONT)


def faults(line: Pipeline, cameras: Cameras, draw: random.Random) -> dict[str, Callable[[], None]]:
    """What may happen next, by name."""
    faulty = ["camera-1", "camera-2"]
    address = f"rtsp://127.0.0.1:{cameras.port}/stream"

    def swap() -> None:
        name = draw.choice(faulty)
        line.remove_stream(name)
        line.add_stream(address, name=name, **CAMERA)

    def pause() -> None:
        name = draw.choice(faulty)
        line.pause_stream(name)
        time.sleep(draw.random())
        line.resume_stream(name)

    return {
        "kill": cameras.kill,
        "start": cameras.start,
        "freeze": lambda: cameras.freeze(draw.random() * 4),
        "pause": pause,
        "change": lambda: line.change_stream(draw.choice(faulty), every_nth=draw.randint(1, 3)),
        "reconnect": lambda: line.change_stream(draw.choice(faulty), open_timeout=draw.uniform(2, 5)),
        "swap": swap,
        "reload": line.reload_model,
    }


CAMERA: dict[str, Any] = {"backoff": 0.25, "backoff_max": 1.0, "stall_timeout": 2.0, "open_timeout": 3.0}


def soak(seconds: float, model: str, seed: int) -> dict[str, Any]:
    """Run for so long; what was found, as data."""
    draw, process = random.Random(seed), psutil.Process()
    looks: list[dict[str, float]] = []
    happened: dict[str, int] = {}
    refused: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        cameras = Cameras(make_clip(Path(folder) / "clip.mp4", frames=3000, fps=15, size=(320, 240), gop=15))
        address = f"rtsp://127.0.0.1:{cameras.port}/stream"
        streams = [{"source": address, "name": f"camera-{n}", **CAMERA} for n in (1, 2)]
        streams += [
            {"source": f"synthetic:320x240@{WELL_FPS:g}", "name": f"well-{n}", "live": True} for n in (1, 2)
        ]
        with Pipeline(make_config({"streams": streams, "model": model, "provider": "cpu"})) as line:
            watcher = Watcher(line)
            choices = faults(line, cameras, draw)
            try:
                watcher.after("well-1", 0.0)  # the line runs
                begun = time.monotonic()
                while time.monotonic() < begun + seconds:
                    name = draw.choice(list(choices))
                    happened[name] = happened.get(name, 0) + 1
                    try:
                        choices[name]()
                    except PipelineError as error:
                        refused.append(f"{name}: {error}")
                    time.sleep(draw.random() * 2)
                    gc.collect()
                    looks.append({"at": time.monotonic() - begun, **look(process)})
                took = time.monotonic() - begun
                cameras.start()
                back = watcher.after("camera-1", time.monotonic())
            finally:
                line.stop()
                watcher.thread.join()
                cameras.kill()
            accounts = line.accounts
            found = {
                "kind": "framerail soak",
                "machine": machine(),
                "asked": {"seconds": seconds, "model": model, "seed": seed},
                "seconds": took,
                "happened": happened,
                "refused": refused,
                "back_at_the_end": back is not None,
                "conserved": not accounts.violations(line.left_in_line()),
                "restarts": line.restarts,
                "streams": {
                    name: {
                        "emitted": account.counts().emitted,
                        "dropped": account.counts().dropped_total,
                        "p99_seconds": account.latency.quantile(0.99),
                        "reconnects": dict(account.link.reconnects),
                    }
                    for name, account in accounts.streams.items()
                },
            }
    settled = looks[len(looks) // 5 :]
    half, span = len(settled) // 2, max(settled[-1]["at"] - settled[0]["at"], 1.0)
    found["growth"] = {
        "mb_per_hour": 3600 * slope([each["mb"] for each in settled]) * len(settled) / span,
        **{
            what: most(settled[half:], what) - most(settled[:half], what)
            for what in ("threads", "descriptors")
        },
    }
    found["looks"] = looks
    return found


def most(looks: list[dict[str, float]], what: str) -> float:
    """The highest of it in these looks."""
    return max((each[what] for each in looks), default=0.0)


def limits(found: dict[str, Any]) -> list[Row]:
    """What is promised: its name, what was measured, the limit, and whether it holds."""
    well = [found["streams"][name] for name in ("well-1", "well-2")]
    rate = min(each["emitted"] for each in well) / (WELL_FPS * found["seconds"])
    age = max(each["p99_seconds"] or 0.0 for each in well)
    memory, threads, files = (found["growth"][what] for what in ("mb_per_hour", "threads", "descriptors"))
    back = found["back_at_the_end"]
    return [
        ("frames unaccounted for (0: none)", float(not found["conserved"]), 0, found["conserved"]),
        ("the faulty camera is back at the end (1: yes)", float(back), 1, back),
        ("rate of a well camera ÷ its own", rate, LEAST_RATE, rate >= LEAST_RATE),
        ("p99 age of a well camera, s", age, MOST_AGE_SECONDS, age <= MOST_AGE_SECONDS),
        ("MB of memory per hour", memory, MOST_MB_PER_HOUR, memory <= MOST_MB_PER_HOUR),
        ("more threads in the second half", threads, 0, threads <= 0),
        ("more descriptors in the second half", files, 0, files <= 0),
    ]


def main() -> None:
    """Run, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--model", default="nanodet-g")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    set_malloc()  # as the command does
    found = soak(60 * options.minutes, options.model, options.seed)
    print(f"{sum(found['happened'].values())} faults: {found['happened']}; refused: {found['refused']}")
    end(found, limits(found), options.json)


if __name__ == "__main__":
    main()
