"""Signals at random moments: what is left on the disk each time.

``python -m benchmarks.signals [--runs N] [--seed S] [--json FILE]``

Each run is the command itself with a live stream, JSON Lines, an MP4, pictures and a summary, in a folder of
its own. After a random time (while the model loads, while it runs) it gets SIGTERM, SIGINT, SIGHUP or
SIGKILL; one that goes on after SIGHUP, as it should, is ended by SIGTERM. (Time begins with framerail's first
line: a signal before that is Python's, which may lose a SIGINT while it starts.) Looked at in each folder:

* no half file under a final name: the video decodes to its last frame, pictures and summary are whole;
* JSON Lines: each line is whole; after SIGKILL, each but the last;
* after all but SIGKILL the MP4 is there with every frame that has a line, and no ``.part`` is left;
* after SIGKILL the ``.part`` plays up to its last fragment (counted in its bytes), which lies at most two
  seconds, and what waited for the encoder, behind the last line.

The exit code is 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import av
import cv2

from benchmarks.cheap_model import write_cheap_model
from pipeline.bench import machine

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGKILL")
FPS, SIZE = 100, "320x240"
LONGEST_SECONDS, ENDS_SECONDS = 8.0, 40.0
_LISTENING = (
    "import sys; from pipeline import __main__; print('listening', flush=True); sys.exit(__main__.main())"
)
BEHIND = round(2 * FPS + 4 + 64)
"""Frames: a fragment, those that the encoder holds, the most that wait for its thread."""


def main() -> None:
    """Run, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100, help="of each signal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the run under way is ended, too
    choose = random.Random(options.seed)
    faults: list[str] = []
    counts: Counter[str] = Counter()
    behind: list[int] = []
    with tempfile.TemporaryDirectory() as temporary:
        model = write_cheap_model(Path(temporary) / "cheap.onnx")
        for number in range(options.runs * len(SIGNALS)):
            name = SIGNALS[number % len(SIGNALS)]
            folder = Path(temporary) / f"{number}"
            after = choose.uniform(0, LONGEST_SECONDS)
            found = one(folder, model, name, after)
            counts[name] += 1
            counts[f"{name}, with frames"] += found["lines"] > 0
            if name == "SIGKILL" and found["lines"]:
                behind.append(found["lines"] - found["video"])
            for fault in found["faults"]:
                faults.append(f"{name} after {after:.2f} s: {fault}")
                print(faults[-1], flush=True)
    found = judged(dict(counts), faults, behind)
    print(json.dumps(found, indent=2))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(each["holds"] for each in found["limits"]) else 1)


def judged(counts: dict[str, int], faults: list[str], behind: list[int]) -> dict[str, Any]:
    """The result, with what it must hold. ``behind``: frames that each MP4 lacks after SIGKILL."""
    most = max(behind, default=0)
    limits: list[tuple[str, float, float]] = [
        (f"faults in {sum(counts[name] for name in SIGNALS)} runs", len(faults), 0),
        (
            f"seconds of video behind the last line after SIGKILL, at {FPS} fps: most",
            most / FPS,
            BEHIND / FPS,
        ),
    ]
    return {
        "machine": machine(),
        "runs": counts,
        "faults": faults,
        "frames_behind": behind,
        "limits": [
            {"what": what, "measured": measured, "limit": limit, "holds": measured <= limit}
            for what, measured, limit in limits
        ],
    }


def one(folder: Path, model: Path, name: str, after: float) -> dict[str, Any]:
    """Run the command in ``folder``, signal it ``after`` seconds; lines, frames of the video, and faults."""
    folder.mkdir()
    process = subprocess.Popen(
        [
            sys.executable, "-c", _LISTENING, "run", f"synthetic:{SIZE}@{FPS}", "--live", "--name", "cam",
            "--model", str(model), "--jsonl", "out.jsonl", "--video", "v.mp4", "--pictures", "pictures",
            "--summary", "s.json",
        ],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"}, start_new_session=True,  # on no terminal
    )  # fmt: skip
    faults: list[str] = []
    try:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(after)
            faults.append(f"ended by itself with {process.returncode}")
        except subprocess.TimeoutExpired:
            process.send_signal(getattr(signal, name))
        if name == "SIGHUP":
            time.sleep(0.2)  # a line more or less, if it lives
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        try:
            _, said = process.communicate(timeout=ENDS_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # says where each thread is
            _, said = process.communicate()
            faults.append(f"did not end within {ENDS_SECONDS:.0f} s")
    finally:
        process.kill()
        process.communicate()
    killed = name == "SIGKILL"
    faults += look(folder, killed)
    if name == "SIGHUP" and "SIGHUP: " not in said:
        faults.append("SIGHUP ended it")
    if not killed and process.returncode != 0:
        faults.append(f"exit code {process.returncode}: {said[-5000:]}")
    whole, part = folder / "v.mp4", folder / "v.mp4.part"
    lines = len(_lines(folder))
    frames = decoded(whole)[0] if whole.exists() else decoded(part)[0] if part.exists() else 0
    if not killed and (folder / "s.json").exists():
        outputs = json.loads((folder / "s.json").read_text())["outputs"]
        said_written = (outputs["jsonl"]["written"], outputs["video"]["written"])
        if said_written != (lines, frames):
            faults.append(
                f"{said_written} lines and frames are said to be written, there are {lines}, {frames}"
            )
    elif not killed and (lines or frames):
        faults.append("there are results, but no summary")
    if killed and lines - frames > BEHIND:
        faults.append(f"{lines} lines, but only {frames} frames of video")
    return {"lines": lines, "video": frames, "faults": faults}


def look(folder: Path, killed: bool) -> list[str]:
    """What is wrong with the files of a run that was ended by a signal."""
    faults = []
    rows = _lines(folder)
    for number, row in enumerate(rows):
        try:
            json.loads(row)
        except ValueError:
            if not (killed and number == len(rows) - 1):
                faults.append(f"line {number + 1} of {len(rows)} is no JSON: {row[-60:]!r}")
    if (folder / "s.json").exists():
        json.loads((folder / "s.json").read_text())
    if (folder / "v.mp4").exists() and not decoded(folder / "v.mp4")[1]:
        faults.append("v.mp4 is damaged")
    faults += [
        f"{path.name} is damaged"
        for path in (folder / "pictures").glob("*.jpg")
        if not path.read_bytes().endswith(b"\xff\xd9") or cv2.imread(str(path)) is None
    ]
    parts = sorted(path.name for path in folder.rglob("*.part"))
    if parts and not killed:
        faults.append(f"left behind: {parts}")
    if "v.mp4.part" in parts and not (folder / "v.mp4").exists():
        part = folder / "v.mp4.part"
        expected, played = in_whole_fragments(part.read_bytes()), decoded(part)[0]
        if played < expected:
            faults.append(f"{part.name} plays {played} frames of {expected} in whole fragments")
    return faults


def _lines(folder: Path) -> list[bytes]:
    path = folder / "out.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


def decoded(path: Path) -> tuple[int, bool]:
    """How many frames of a video can be decoded, and whether that is all of it."""
    count = 0
    try:
        with av.open(str(path)) as source:
            for _ in source.decode(video=0):
                count += 1
            return count, count == source.streams.video[0].frames
    except (av.FFmpegError, IndexError):
        return count, False


def in_whole_fragments(data: bytes) -> int:
    """Frames in whole fragments of an MP4, counted in its bytes: in each ``trun`` before a whole ``mdat``."""
    at, frames, pending = 0, 0, 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"moof":
            found = data.find(b"trun", at, at + size)
            pending = int.from_bytes(data[found + 8 : found + 12], "big")
        if kind == b"mdat" and at + size <= len(data):
            frames, pending = frames + pending, 0
        if size < 8:
            break
        at += size
    return frames


if __name__ == "__main__":
    main()
