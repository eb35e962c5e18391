"""Well cameras in faulty company: do they keep their rate and their age, whatever the others suffer?

``python -m benchmarks.company [--seconds 5] [--kinds a,b] [--pairs N] [--model M] [--seed 1] [--json FILE]``

A line of eight RTSP and HTTP cameras, of which four are well and four suffer a fault of the chaos kit: each
kind alone, and each two together (or ``--pairs`` of them, drawn by the seed). Both halves have a server
process of their own. Between them, every tenth, a trial without any fault is the measure for the others.
A trial's rate is the share of the frames due that came, of the well camera that fared worst; its age the p99
over the well cameras. Each line is stopped in the middle of it all, and its books are checked. The exit
code is 1 where a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.cheap_model import write_cheap_model
from benchmarks.verdicts import Row, end
from pipeline.app import Pipeline
from pipeline.bench import machine
from pipeline.chaos import KINDS
from pipeline.config import make_config
from pipeline.frame import Result
from pipeline.memory import set_malloc
from tests.clips import make_clip
from tests.servers import free_port

FPS = 15
WELL = tuple(f"well-{n}" for n in range(4))
LEAST_RATE = 0.98
MOST_AGE = 1.25
"""Median p99 age over all trials ÷ that of those without faults."""
LEAST_BOTH = 0.9
"""Pairs of faults of which both happened ÷ pairs: after some there is no connection for another."""
MOST_AGE_SECONDS = 0.1
"""p99 age in any trial."""
PATIENCE = 20.0

FAULTS = {
    "refuse": "refuse@0:for=1",
    "restart": "restart@3.3:for=1",
    "silent": "silent@0:for=1",
    "stall": "stall@2.6:for=2",
    "reset": "reset@3",
    "close": "close@3.7",
    "trickle": "trickle@2.5:bytes=3000,for=2",
    "garble": "garble@2.5:rate=0.002,for=2",
    "drop": "drop@1:rate=0.05",
    "duplicate": "duplicate@1:rate=0.2",
    "reorder": "reorder@1:rate=0.2",
    "corrupt": "corrupt@1:rate=0.05",
    "switch": "switch@3",
    "rewind": "rewind@3",
    "jump": "jump@3:by=-100",
    "repeat": "repeat@2.8:for=1",
    "freeze": "freeze@2.6:for=2",
    "black": "black@2.6:for=2",
    "rate": "rate@2.6:fps=60,for=2",
    "password": "password@3.5:password=another",
}
"""One of each kind, in a trial of some seconds from the start of the kit."""
assert FAULTS.keys() == KINDS.keys()


@contextmanager
def kit(clips: list[Path], faults: list[str], seed: int) -> Iterator[tuple[int, dict[str, int]]]:
    """A server of the chaos kit in a process of its own: its port, and, once left, what it injected."""
    port, injected = free_port(), dict[str, int]()
    command = [sys.executable, "-m", "pipeline", "chaos", "serve", *map(str, clips), "--json"]
    command += ["--listen", f"127.0.0.1:{port}", "--seed", str(seed)]
    command += [word for fault in faults for word in ("--fault", fault)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = []
            while not said or "://" not in said[-1]:  # its first address: it listens
                said.append(process.stderr.readline())
                if not said[-1]:
                    raise RuntimeError(f"the chaos kit does not start: {''.join(said)}")
            drain = threading.Thread(target=process.stderr.read, name="chaos kit's log")
            drain.start()
            yield port, injected
        finally:
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            answer = process.stdout.read()
        drain.join()
    injected.update(json.loads(answer)["injected"])


class Arrivals:
    """When each well camera's results came, and how old they were."""

    def __init__(self, line: Pipeline) -> None:
        self.came: dict[str, list[tuple[float, float]]] = {name: [] for name in WELL}
        self.all_began = threading.Event()
        self._line = line
        self.thread = threading.Thread(target=self._run, name="results")
        self.thread.start()

    def _run(self) -> None:
        for result in self._line:
            self._took(result)

    def _took(self, result: Result) -> None:
        if result.stream in self.came:
            now = time.monotonic()
            self.came[result.stream].append((now, now - result.frame.captured_at))
            if not self.all_began.is_set() and all(self.came.values()):
                self.all_began.set()


def trial(
    well_port: int, clips: list[Path], kinds: tuple[str, ...], seconds: float, model: str, seed: int
) -> dict[str, Any]:
    """One line, with these faults in four of its cameras; what was found, as data."""
    threads = threading.active_count()
    with kit(clips, [FAULTS[kind] for kind in kinds], seed) as (port, injected):
        hasty = {"backoff": 0.25, "backoff_max": 1.0, "stall_timeout": 1.5, "open_timeout": 1.2}
        paths = ("rtsp", "stream"), ("http", "stream.ts")
        streams = [
            {"source": f"{scheme}://127.0.0.1:{at}/{path}", "name": f"{name}-{n}", "live": True, **hasty}
            for name, at in (("well", well_port), ("ill", port))
            for n, (scheme, path) in enumerate((*paths, *paths))
        ]  # fmt: skip
        with Pipeline(make_config({"streams": streams, "model": model, "provider": "cpu"})) as line:
            arrivals = Arrivals(line)
            try:
                began = arrivals.all_began.wait(PATIENCE)
                end = time.monotonic() + seconds
                if began:
                    time.sleep(seconds)
            finally:
                line.stop()
                arrivals.thread.join()
            accounts = line.accounts
            found = {
                "kinds": kinds,
                "rate": min(share_of_due(arrivals.came[name], end) for name in WELL) if began else 0.0,
                "p99_ms": 1000 * p99([age for name in WELL for _, age in arrivals.came[name]]),
                "reconnects_of_well": sum(
                    sum(accounts.streams[name].link.reconnects.values()) for name in WELL
                ),
                "frames_of_ill": sum(
                    account.counts().emitted for name, account in accounts.streams.items() if name not in WELL
                ),
                "conserved": not accounts.violations(line.left_in_line()),
            }
    return found | {"injected": injected, "threads_left": threading.active_count() - threads}


def share_of_due(came: list[tuple[float, float]], end: float) -> float:
    """The frames that came until ``end`` ÷ those due since the first; one may be half an interval late."""
    times = [at for at, _ in came if at <= end]
    due = math.floor((end - times[0]) * FPS + 0.5)
    return min(1.0, len(times) / due) if due > 0 else 1.0


def happened(found: dict[str, Any]) -> bool:
    """Whether each of a trial's faults befell a connection."""
    return all(found["injected"].get(kind, 0) > 0 for kind in found["kinds"])


def p99(values: list[float]) -> float:
    """The value that 99 of 100 do not exceed; 0 of none."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1] if values else 0.0


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """All trials; what was found, as data."""
    kinds = asked.kinds.split(",") if asked.kinds else list(FAULTS)
    pairs = list(combinations(kinds, 2))
    if asked.pairs is not None:
        pairs = random.Random(asked.seed).sample(pairs, min(asked.pairs, len(pairs)))
    plan: list[tuple[str, ...]] = [*((kind,) for kind in kinds), *pairs]
    trials = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = [
            make_clip(folder / f"{size[0]}.mp4", frames=40 * FPS, fps=FPS, size=size, gop=FPS)
            for size in ((320, 240), (480, 272))
        ]
        model = asked.model or str(write_cheap_model(folder / "cheap.onnx", size=320))
        with kit(clips[:1], [], asked.seed) as (well_port, _):
            for number, suffered in enumerate(plan):
                if number % 10 == 0:
                    trials.append(trial(well_port, clips, (), asked.seconds, model, asked.seed + number))
                trials.append(trial(well_port, clips, suffered, asked.seconds, model, asked.seed + number))
                last = trials[-1]
                print(
                    f"{number + 1} of {len(plan)}: {' + '.join(suffered):<22} rate {last['rate']:.3f}, p99 "
                    f"{last['p99_ms']:.1f} ms, injected {last['injected']}", flush=True
                )  # fmt: skip
    return {
        "kind": "framerail company",
        "machine": machine(),
        "asked": {"seconds": asked.seconds, "model": asked.model or "one that does nothing, 320x320",
                  "seed": asked.seed, "kinds": kinds, "pairs": len(pairs)},
        "trials": trials,
    }  # fmt: skip


def limits(found: dict[str, Any]) -> list[Row]:
    """What is promised: its name, what was measured, the limit, and whether it holds."""
    without = [each for each in found["trials"] if not each["kinds"]]
    suffered = [each for each in found["trials"] if each["kinds"]]
    least = min(each["rate"] for each in suffered)
    usual = statistics.median(each["p99_ms"] for each in without)
    age = statistics.median(each["p99_ms"] for each in suffered) / usual
    oldest = max(each["p99_ms"] for each in suffered) / 1000
    alone, paired = ([each for each in suffered if len(each["kinds"]) == count] for count in (1, 2))
    idle = sum(not happened(each) for each in alone)
    both = sum(map(happened, paired)) / max(len(paired), 1)
    untrue = sum(not each["conserved"] for each in found["trials"])
    left = max(each["threads_left"] for each in found["trials"])
    lost = sum(each["reconnects_of_well"] for each in found["trials"])
    return [
        (
            f"least rate of a well camera ÷ its own, {len(suffered)} trials",
            least,
            LEAST_RATE,
            least >= LEAST_RATE,
        ),
        ("p99 age of well cameras, median ÷ that without faults", age, MOST_AGE, age <= MOST_AGE),
        ("p99 age of well cameras, the worst trial, s", oldest, MOST_AGE_SECONDS, oldest <= MOST_AGE_SECONDS),
        ("connections of well cameras that were lost", lost, 0, lost == 0),
        ("trials with frames unaccounted for", untrue, 0, untrue == 0),
        ("faults alone that did not happen", idle, 0, idle == 0),
        (
            f"share of {len(paired)} pairs in which both happened",
            both,
            LEAST_BOTH,
            not paired or both >= LEAST_BOTH,
        ),
        ("threads left behind", left, 0, left <= 0),
    ]


def parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument(
        "--seconds", type=float, default=5.0, help="of each trial, once all well cameras are live"
    )
    asked.add_argument("--kinds", help="some of the faults, by commas; default: all")
    asked.add_argument("--pairs", type=int, help="so many pairs, drawn; default: all")
    asked.add_argument("--model", help="default: one that does nothing, of 320x320")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--json", metavar="FILE")
    return asked


def main() -> None:
    """Measure, print, and write the JSON."""
    options = parser().parse_args()
    set_malloc()  # as the command does
    found = measure(options)
    end(found, limits(found), options.json)


if __name__ == "__main__":
    main()
