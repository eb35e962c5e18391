"""What one more file stream costs in memory.

``python -m benchmarks.memory --clip FILE [--model M] [--streams N,N,…] [--rounds R] [--json FILE]``

``framerail run`` of a 1080p clip, once for each number of streams in each round, in a process of its own;
what counts is the most memory that it ever held (the kernel's VmHWM), and of it what each stream beyond the
first costs. Every command writes JSON Lines. ``--streams`` begins with one.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import verdicts
from pipeline.cores import usable_cores
from pipeline.doctor import examine

LIMIT_MB = 40.0
# The most that getrusage tells of a child begins with what its parent held before the exec.
_COMMAND = """
import atexit, pathlib, sys
told = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: told.write_text(pathlib.Path("/proc/self/status").read_text()))
from pipeline.__main__ import main
sys.exit(main())
"""


def main() -> None:
    """Measure, print, write the JSON; exit code 1 where a stream costs more than it may."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clip", required=True, help="a 1080p video")
    parser.add_argument("--model", default="nanodet-g")
    parser.add_argument("--streams", default="1,4,8,16")
    parser.add_argument("--frames", type=int, default=80, help="of each stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    counts = sorted({int(word) for word in options.streams.split(",")})
    if counts[0] != 1 or len(counts) < 2:
        parser.error("--streams: expected 1 and larger numbers, such as 1,4,8,16")

    machine = examine()
    rounds: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(options.rounds):
        for count in counts:
            rounds[count].append(peak_mb(options.clip, options.model, count, options.frames))
            print(f"{count} streams: {rounds[count][-1]:.1f} MB at most", flush=True)
    alone = statistics.median(rounds[1])
    further = {count: (statistics.median(rounds[count]) - alone) / (count - 1) for count in counts[1:]}
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": machine["cpu"]["model"],
            "cores": usable_cores(),
            "platform": platform.platform(),
        },
        "versions": {
            "framerail": machine["framerail"],
            **machine["runtimes"],
            "av": machine["packages"]["av"],
        },
        "settings": {
            "model": Path(options.model).name,
            "clip": Path(options.clip).name,
            "frames": options.frames,
        },
        "peak_mb": {str(count): values for count, values in rounds.items()},
        "further_mb": {str(count): value for count, value in further.items()},
    }
    verdicts.end(
        found,
        [
            (f"MB of memory a further stream, 1 to {n}", mb, LIMIT_MB, mb <= LIMIT_MB)
            for n, mb in further.items()
        ],
        options.json,
    )


def peak_mb(clip: str, model: str, streams: int, frames: int) -> float:
    """The most memory that a run of so many streams of ``clip`` holds at once, MB."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "status"
        command = [sys.executable, "-c", _COMMAND, str(told), "run", *[clip] * streams]
        command += ["--model", model, "--max-frames", str(frames), "--file", "--quiet"]
        command += ["--jsonl", str(Path(folder) / "all.jsonl")]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise SystemExit(f"the run of {streams} streams ended with exit code {done.returncode}")
        status = told.read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak) * 1024 / 1e6


if __name__ == "__main__":
    main()
