"""What a second stage costs beside the classifier itself: crops, blobs, the memory of objects.

``python -m benchmarks.second_stage --model CLASSIFIER.onnx [--objects N] [--rounds R]``

Rounds interleave the bare classifier on a batch that is ready, and the stage on frames with as many
objects, none of them remembered; the ratio of the medians is the cost of the stage.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from pipeline.cores import usable_cores
from pipeline.detections import Detections
from pipeline.frame import Frame, Result
from pipeline.runtime.model import open_model
from pipeline.stages.classify import Classify
from pipeline.stages.match import Match

TARGET = 1.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    model = open_model(options.model, "cpu", threads=usable_cores(), task="classify")
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (1080, 1920, 3), np.uint8)
    corners = random.uniform([0, 0], [1700, 800], (options.objects, 2))
    sizes = random.uniform(60, 220, (options.objects, 2))
    detections = Detections(
        np.hstack([corners, corners + sizes]).astype(np.float32),
        np.ones(options.objects, np.float32),
        np.zeros(options.objects, np.int32),
    )
    blob = random.random((options.objects, *model.spec.blob_shape[1:]), np.float32)
    match, classify = Match(model.labels, None, every=1), Classify(model)
    bare, staged = [], []
    for seq in range(options.rounds + 1):
        started = time.perf_counter()
        size = model.max_batch or options.objects
        for start in range(0, options.objects, size):
            model.session.run(blob[start : start + size])
        between = time.perf_counter()
        classify(match([Result(Frame("a", seq, image, None, None, 0.0, 0.0), detections)]))
        ended = time.perf_counter()
        if seq:  # the first pays for allocations
            bare.append((between - started) * 1000)
            staged.append((ended - between) * 1000)
    ratio = statistics.median(staged) / statistics.median(bare)
    print(
        f"{options.objects} objects a frame, {model.name}: classifier {statistics.median(bare):.1f} ms, "
        f"stage {statistics.median(staged):.1f} ms, ratio {ratio:.3f}; target at most {TARGET}"
    )


if __name__ == "__main__":
    main()
