"""What the line itself costs, and how close it comes to what the machine allows.

``python -m benchmarks.line [--seconds S] [--rounds R] [--json FILE]``

Two questions, each answered by rounds that interleave what is compared, medians over rounds:

1. With a model that does nothing (a real session of three tiny nodes): frames/s through all
   stages, and CPU time per frame; and what of that is none of the stages' own, each measured alone in
   one thread: by hops from thread to thread.
2. With the default model on the bundled clip: frames/s of the pipeline against the bound,
   cores ÷ (CPU seconds per frame, each stage measured alone in one thread).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cheap_model import write_cheap_model
from pipeline import Detector, Frame, Pipeline
from pipeline.accounts import StreamAccount
from pipeline.config import StreamConfig
from pipeline.cores import usable_cores
from pipeline.doctor import examine
from pipeline.line import STAGES
from pipeline.memory import set_malloc
from pipeline.sinks import Null, Outputs
from pipeline.sources import parse_source
from pipeline.stages.capture import Capture
from pipeline.stages.emit import Emit
from pipeline.stages.infer import Infer
from pipeline.stages.postprocess import Postprocess, Thresholds
from pipeline.stages.preprocess import BlobPool, Preprocess

TARGET_FPS = 8000.0
TARGET_RATIO = 0.95
TARGET_HOP = 25.0
HOPS = len(STAGES) - 1


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="nanodet-g")
    parser.add_argument("--source", default="sample:")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    set_malloc()  # as the command does

    machine = examine()
    result: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": machine["cpu"]["model"],
            "cores": usable_cores(),
            "platform": platform.platform(),
        },
        "versions": {"python": machine["python"], "framerail": machine["framerail"], **machine["runtimes"],
                     **machine["opencv"], **{k: machine["packages"][k] for k in ("numpy", "av")}},
    }  # fmt: skip
    print(f"{result['date']}  {result['machine']['cpu']}, {result['machine']['cores']} cores")
    print("  ".join(f"{name} {version}" for name, version in result["versions"].items()))

    with tempfile.TemporaryDirectory() as folder:
        cheap = str(write_cheap_model(Path(folder) / "cheap.onnx"))
        rounds: list[dict[str, Any]] = [
            {
                **run("synthetic:64x48", cheap, options.seconds),
                "alone": alone("synthetic:64x48?frames=3000", cheap, 400),
            }
            for _ in range(options.rounds)
        ]
    fps = statistics.median(one["fps"] for one in rounds)
    cpu = statistics.median(one["cpu_ms"] for one in rounds)
    hops = [(one["cpu_ms"] - sum(one["alone"].values())) / HOPS * 1000 for one in rounds]
    result["nothing"] = {
        "fps": fps,
        "cpu_us_per_frame": cpu * 1000,
        "cpu_us_per_hop": statistics.median(hops),
        "stages_us": statistics.median(sum(one["alone"].values()) for one in rounds) * 1000,
        "rounds": [one["fps"] for one in rounds],
    }
    print(
        f"\nmodel that does nothing, 64x48: {fps:,.0f} frames/s, {cpu * 1000:.0f} µs of CPU a frame "
        f"({options.rounds} rounds, {min(result['nothing']['rounds']):,.0f} to "
        f"{max(result['nothing']['rounds']):,.0f}); target {TARGET_FPS:,.0f}\n"
        f"{result['nothing']['cpu_us_per_hop']:.1f} µs of it for each of {HOPS} hops from thread to thread "
        f"({min(hops):.1f} to {max(hops):.1f}); target {TARGET_HOP:g}"
    )

    result["default"] = against_bound(options.source, options.model, options.rounds)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def run(source: str, model: str, seconds: float | None = None) -> dict[str, float]:
    """One run of the whole pipeline: frames/s and CPU milliseconds per frame, without the start."""
    with Pipeline(source, model=model, **({"duration": seconds} if seconds else {})) as line:
        before = time.process_time()
        line.run()
        used = time.process_time() - before
        return {"fps": line.accounts.fps(), "cpu_ms": used / line.accounts.totals().emitted * 1000}


def alone(source: str, model: str, frames: int = 40) -> dict[str, float]:
    """CPU milliseconds per frame of each stage by itself, in one thread."""
    detector = Detector(model, provider="cpu", threads=1)
    opened = detector.model
    pool = BlobPool(opened.spec.dtype)
    account = StreamAccount("s")
    spec, stream = parse_source(source), StreamConfig(source=source)

    before = time.process_time()
    count, sampled = 0, []
    for frame in Capture(spec, stream, account)():
        if isinstance(frame, Frame):
            count += 1
            if count % 6 == 0 and len(sampled) < frames:
                sampled.append(frame)
    milliseconds = {"capture": (time.process_time() - before) / count * 1000}

    preprocess, infer = Preprocess(opened.spec, pool), Infer(opened.session, pool)
    postprocess = Postprocess(opened, Thresholds(opened.conf_threshold, opened.iou_threshold, 100))
    emit = Emit(Outputs([Null()]), {"s": account})
    stages = {"preprocess": preprocess, "infer": infer, "postprocess": postprocess, "emit": emit}
    milliseconds |= dict.fromkeys(stages, 0.0)
    for frame in sampled:
        # Frame by frame, as in the line: blobs are reused and what a stage reads is still in cache.
        items: list[Any] = [frame]
        for name, stage in stages.items():
            before = time.process_time()
            items = stage(items)
            milliseconds[name] += (time.process_time() - before) / len(sampled) * 1000
    return milliseconds


def against_bound(source: str, model: str, rounds: int) -> dict[str, Any]:
    """The pipeline's rate against cores ÷ Σ CPU seconds of each stage alone; both in every round."""
    cores = usable_cores()
    measured: dict[str, list[float]] = {stage: [] for stage in STAGES}
    rates, used, ratios = [], [], []
    for _ in range(rounds):
        stages = alone(source, model)
        one = run(source, model)
        for stage, milliseconds in stages.items():
            measured[stage].append(milliseconds)
        rates.append(one["fps"])
        used.append(one["cpu_ms"])
        ratios.append(one["fps"] * sum(stages.values()) / 1000 / cores)
    medians = {stage: statistics.median(values) for stage, values in measured.items()}
    total = sum(medians.values())
    print(f"\n{model} on {source} CPU of each stage alone, ms per frame")
    for stage, milliseconds in medians.items():
        print(f"  {stage:<12}{milliseconds:8.3f}")
    print(f"  {'sum':<12}{total:8.3f}   bound {cores / total * 1000:.1f} FPS on {cores} cores")
    print(f"pipeline {statistics.median(rates):.1f} FPS, {statistics.median(used):.2f} ms of CPU a frame")
    print(
        f"pipeline ÷ bound {statistics.median(ratios):.3f} "
        f"({rounds} rounds, {min(ratios):.3f} to {max(ratios):.3f}); target {TARGET_RATIO}"
    )
    return {
        "stages_ms": medians,
        "bound_fps": cores / total * 1000,
        "fps": statistics.median(rates),
        "cpu_ms_per_frame": statistics.median(used),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


if __name__ == "__main__":
    main()
