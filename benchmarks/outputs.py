"""Outputs that fail or block: do the others and detection go on, and what is on the disk?

``python -m benchmarks.outputs [--runs N] [--seed S] [--json FILE]``

Each run is the command itself, of a file or a live camera, with JSON Lines, an MP4 and a summary. At a random
moment one of the two outputs (the other is the well one)

* ``full``: finds its disk full (a small file system of our own, mounted in a user namespace),
* ``blocks``: has a reader that reads no more (JSON Lines into a pipe); of a camera it goes on after a while,
* ``gone``: has a reader that goes away,

with ``on_sink_error`` both ways. Looked at each time: the exit code; that the well output has every result
that the books say it has, and that the line comes to its end where it is to go on; that what the faulty one
left is whole lines, or a video that plays to the end of its last whole fragment; that ``dropped_before`` of a
reader that went on accounts for every frame; and the line's books. The exit code is 1 where one of these does
not hold.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from benchmarks import verdicts
from benchmarks.cheap_model import write_cheap_model
from benchmarks.signals import decoded, in_whole_fragments
from pipeline.bench import machine

FAULTS = ("full", "blocks", "gone")
KINDS = ("file", "camera")
POLICIES = ("end", "go_on")
FRAMES = {"file": 1500, "camera": 300}
FPS = 100
SINK_TIMEOUT = 1.5
ENDS_SECONDS = 60.0
CASES = tuple(product(FAULTS, KINDS, POLICIES))
_MOUNTED = 'mount -t tmpfs -o size="$1" x small && shift && "$@"; code=$?; cp -a small/. left/; exit $code'


def main() -> None:
    """Run, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    found = measure(options.runs, options.seed)
    verdicts.end(found, limits(found), options.json)


def measure(runs: int, seed: int, cases: Sequence[tuple[str, str, str]] = CASES) -> dict[str, Any]:
    """So many runs of all ``cases`` in turn, as data."""
    draw = random.Random(seed)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        model = write_cheap_model(Path(temporary) / "cheap.onnx")
        for number, case in enumerate(islice(cycle(cases), runs)):
            fault, kind, policy = case
            folder = Path(temporary) / f"{number}"
            wrong, share = one(folder, model, fault, kind, policy, draw)
            counts[" ".join(case)] += 1
            if share is not None:
                shares.append(share)
            for each in wrong:
                faults.append(f"{' '.join(case)}, run {number}: {each}")
                print(faults[-1], flush=True)
    return {
        "kind": "framerail outputs",
        "machine": machine(),
        "asked": {"runs": runs, "seed": seed},
        "runs": dict(counts),
        "faults": faults,
        "shares": shares,
    }


def limits(found: dict[str, Any]) -> list[verdicts.Row]:
    """What is promised: its name, what was measured, the limit, and whether it holds."""
    runs, shares = sum(found["runs"].values()), found["shares"]
    rows: list[verdicts.Row] = [
        (f"faults in {runs} runs", len(found["faults"]), 0, not found["faults"]),
    ]
    if shares:
        least = min(shares)
        name = f"least share of a line's frames that the well output has, {len(shares)} runs that go on"
        rows.append((name, least, 0.98, least >= 0.98))
    return rows


def one(
    folder: Path, model: Path, fault: str, kind: str, policy: str, draw: random.Random
) -> tuple[list[str], float | None]:
    """A run of the command in ``folder``. What was wrong, and which share of all frames the well output
    has, where the line was to go on."""
    for name in ("", "small", "left"):
        (folder / name).mkdir()
    faulty = draw.choice(("jsonl", "video")) if fault == "full" else "jsonl"
    recovers = fault == "blocks" and kind == "camera"
    paths = {"jsonl": "out.jsonl", "video": "v.mp4"}
    paths[faulty] = f"small/{paths[faulty]}" if fault == "full" else "pipe"
    address = f"synthetic:320x240@{FPS}?frames={FRAMES[kind]}"
    source = {"source": address, "name": "cam", "live": kind == "camera"}
    config = {"streams": [source], "model": str(model), "summary": "s.json", **paths}
    config |= {"on_sink_error": policy, "sink_timeout": SINK_TIMEOUT}
    (folder / "line.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pipeline", "run", "--config", "line.json"]
    reader = None
    if fault == "full":
        # Of the file that there would be: 1 kB for three lines, or for nine frames.
        whole = FRAMES[kind] // (3 if faulty == "jsonl" else 9)
        kilobytes = draw.randint(int(0.2 * whole), int(0.8 * whole))
        command = ["unshare", "-rm", "sh", "-c", _MOUNTED, "sh", f"{kilobytes}k", *command]
    else:
        os.mkfifo(folder / "pipe")
        # A camera's reader goes on after so many seconds; none is later than the camera's end.
        pause = draw.uniform(0.3, 1.2) if recovers else None
        reader = Reader(folder / "pipe", draw.randint(5, 60), pause, goes=fault == "gone")
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=ENDS_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return [f"did not end within {ENDS_SECONDS:.0f} s"], None
    finally:
        if reader is not None:
            reader.end()
    wrong = []
    expected = 0 if recovers else 4
    if done.returncode != expected or "Traceback" in done.stderr:
        wrong.append(f"exit code {done.returncode} instead of {expected}: {done.stderr[-2000:]}")
    if not (folder / "s.json").exists():
        return [*wrong, "there is no summary"], None
    summary = json.loads((folder / "s.json").read_text())
    books = summary["streams"]["cam"]
    if not summary["conserved"]:
        wrong.append("frames are unaccounted for")
    if bool(summary["outputs"][faulty]["error"]) is recovers:
        wrong.append(f"the books say of {faulty}: {summary['outputs'][faulty]}")
    well = "video" if faulty == "jsonl" else "jsonl"
    has = decoded(folder / "v.mp4")[0] if well == "video" else len(_lines(folder / "out.jsonl"))
    missed = sum(summary["outputs"][well]["dropped"].values())
    if has + missed != books["emitted"]:
        wrong.append(f"{well} has {has} of {books['emitted']} results, and the books say it missed {missed}")
    goes_on = policy == "go_on" or recovers
    if goes_on and books["captured"] != FRAMES[kind]:
        wrong.append(f"the line went no further than frame {books['captured']} of {FRAMES[kind]}")
    if faulty == "video":
        wrong += _video(folder / "left" / "v.mp4.part", done.stderr)
    else:
        text = (folder / "left" / "out.jsonl").read_bytes() if reader is None else reader.text
        # What was being written when the reader was given up, or went away.
        wrong += _json_lines(text, cut=fault != "full" and not recovers)
        if recovers and not wrong:
            wrong += _accounted(text)
    return wrong, has / books["captured"] if goes_on else None


class Reader(threading.Thread):
    """Reads a pipe, up to a number of lines; then no more, or for a while, or goes away."""

    def __init__(self, path: Path, lines: int, pause: float | None, *, goes: bool) -> None:
        super().__init__(name="reader")
        self.text = b""
        """What it read."""
        self._path, self._wanted, self._pause, self._goes = path, lines, pause, goes
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        """Read."""
        with open(self._path, "rb", buffering=0) as pipe:  # once the command has opened it
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
            while self.text.count(b"\n") < self._wanted and (part := pipe.read(256)):
                self.text += part
            if self._goes:
                return
            self._over.wait(self._pause)
            while part := pipe.read(65536):
                self.text += part

    def end(self) -> None:
        """Wait for it; nobody writes any more."""
        self._over.set()
        os.close(os.open(self._path, os.O_RDWR))  # wakes one that still waits for the command
        self.join()


def _video(path: Path, said: str) -> list[str]:
    """What is wrong with a video that a fault has left; where its first fragment had no room, it is said."""
    if not path.exists():
        told = "no file was kept, as it could not be played" in said
        return [] if told else [f"there is no {path.name}, and nothing is said of it"]
    whole, played = in_whole_fragments(path.read_bytes()), decoded(path)[0]
    return [] if played >= whole else [f"{path.name} plays {played} frames of {whole} in whole fragments"]


def _json_lines(text: bytes, *, cut: bool) -> list[str]:
    """What is wrong with JSON Lines; ``cut``: the last may be."""
    lines = text.split(b"\n")
    if lines[-1] and not cut:
        return [f"the last line is cut: {lines[-1][-60:]!r}"]
    wrong = []
    for number, line in enumerate(lines[:-1]):
        try:
            json.loads(line)
        except ValueError:
            wrong.append(f"line {number + 1} of {len(lines)} is no JSON: {line[-60:]!r}")
    return wrong


def _accounted(text: bytes) -> list[str]:
    """Whether lines and what they say was dropped before them are all frames up to the last one."""
    rows = [json.loads(line) for line in text.splitlines()]
    told = sum(1 + row["dropped_before"] for row in rows)
    came = rows[-1]["frame"] + 1 if rows else 0
    return [] if told == came > 0 else [f"{told} frames told, {came} came"]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
