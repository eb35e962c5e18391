"""JSON Lines: one object a frame, described by ``docs/result.schema.json``.

Results stream into the file under its final name, because people and programs follow it
while it grows (``tail -f``, ``| jq``). What was there before is replaced when the sink is
made. A line is written by one system call, so whoever reads sees whole lines, and when the
disk fills up the file is cut back to the last whole one.
"""

from __future__ import annotations

import os
import select
import stat
import time
from datetime import UTC, datetime
from json import JSONEncoder
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.classification import Classification, Labels
from pipeline.detections import Detections
from pipeline.errors import SinkWriteError
from pipeline.frame import Result
from pipeline.sinks.base import Sink
from pipeline.sinks.files import open_output, open_own, own_descriptor, reason

SCHEMA = 1
"""Version of the line's layout; it changes when a reader of the old one would break."""

_STEPS = np.array([100.0, 100.0, 100.0, 100.0, 10_000.0])
"""One over the resolution of x1, y1, x2, y2 and confidence."""
_POINT_STEPS = np.array([100.0, 100.0, 10_000.0])
"""The same of a keypoint's x, y and visibility."""

# One encoder, kept: json.dumps builds a new one on each call that is not all defaults.
_encode = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False).encode


def record(result: Result, dropped_before: int, now: float) -> dict[str, Any]:
    """Return the line's object for a result; ``now`` is monotonic seconds.

    Boxes are xyxy in pixels of the frame, clipped to it, rounded to 0.01, confidences to
    0.0001, and so are keypoints and polygons where there are any; masks are computed here.
    ``latency_ms`` holds what each stage took over this frame, and as ``total`` the
    time from its capture until ``now``. A NaN stays one.
    """
    frame, detections = result.frame, result.detections
    height, width = frame.height, frame.width
    # A copy, because a stage that runs beside this one may be adding its own time. Video decode is
    # left out: a frame's latency begins when it has been captured. So is emit, of which this is a part.
    latency_ms = {
        stage: round(seconds * 1e3, 2)
        for stage, seconds in frame.timings.copy().items()
        if stage not in ("capture", "emit")
    }
    latency_ms["total"] = round(max(now - frame.captured_at, 0.0) * 1e3, 2)
    pts_seconds = frame.pts_seconds
    return {
        "schema": SCHEMA,
        "stream": frame.stream,
        "frame": frame.seq,
        **({} if frame.source is None else {"source": frame.source}),
        "pts": None if pts_seconds is None else round(pts_seconds, 6),
        "time": datetime.fromtimestamp(frame.wall_time, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "width": width,
        "height": height,
        **({"damaged": True} if frame.damaged else {}),
        "detections": _objects(detections, width, height) if len(detections) else [],
        **({} if result.classification is None else {"classes": _classes(result.classification)}),
        "latency_ms": latency_ms,
        "dropped_before": dropped_before,
    }


def _objects(detections: Detections, width: int, height: int) -> list[dict[str, Any]]:
    # One array for boxes and confidences halves the calls, which are what costs here; and
    # float64, because 0.1 as a float32 prints as 0.10000000149011612.
    values = np.empty((len(detections), 5))
    values[:, :4] = detections.xyxy
    values[:, 4] = detections.confidence
    np.maximum(values, 0.0, out=values)
    np.minimum(values, (width, height, width, height, 1.0), out=values)
    values *= _STEPS
    np.rint(values, out=values)
    values /= _STEPS
    objects: list[dict[str, Any]] = [
        {"box": [x1, y1, x2, y2], "confidence": confidence, "class_id": class_id, "label": label}
        for (x1, y1, x2, y2, confidence), class_id, label in zip(
            values.tolist(), detections.class_id.tolist(), detections.labels, strict=True
        )
    ]
    if detections.keypoints is not None:
        _add(objects, "keypoints", detections.keypoints, _POINT_STEPS)
    if detections.polygons is not None:
        _add(objects, "polygon", detections.polygons, _POINT_STEPS[:2])
    if detections.second is not None:
        for found, answer in zip(objects, _classes(detections.second), strict=True):
            if answer["label"] is not None:
                found["second"] = answer
    if detections.masks is not None:
        for index, found in enumerate(objects):
            found["mask"] = detections.masks.rle(index)
    return objects


def _classes(found: Classification | Labels) -> list[dict[str, Any]]:
    """The classes of a picture, or what each of some objects was taken for."""
    scores = np.rint(np.clip(found.confidence.astype(np.float64), 0.0, 1.0) * 1e4) / 1e4
    return [
        {"class_id": class_id, "label": label, "confidence": score}
        for class_id, label, score in zip(found.class_id.tolist(), found.labels, scores.tolist(), strict=True)
    ]


def _add(
    objects: list[dict[str, Any]], name: str, values: NDArray[np.float32], steps: NDArray[np.float64]
) -> None:
    # Adding 0 makes -0, which a small negative number is rounded to, a plain one.
    rounded = np.rint(values * steps) / steps + 0.0
    for found, value in zip(objects, rounded.tolist(), strict=True):
        found[name] = value


class JsonLines(Sink):
    """Writes each result as one line of UTF-8 JSON to a file, or to standard output for ``-``.

    Lines are added to what the process has open already (``/dev/stdout``, ``/dev/fd/N``, links to them).

    28 µs for a frame with 5 detections, system call included (2-core x86-64 that had other work). Raises
    SinkOpenError when the output cannot be opened, which includes a named pipe that nobody reads yet.
    """

    kind = "jsonl"
    own_thread = True

    def __init__(self, path: str | os.PathLike[str] = "-") -> None:
        path = os.fspath(path)
        self._name = "standard output" if path == "-" else path
        own = 1 if path == "-" else own_descriptor(path)
        self._file = open_output(path, self._name) if own is None else open_own(own, self._name)
        self._cuttable = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        self._lines = 0

    def write(self, result: Result, dropped_before: int) -> None:
        """Write one line.

        Raises SinkWriteError when the output takes no more (its ``__cause__`` is a
        BrokenPipeError where the reader of a pipe went away), or when the result holds a
        number that JSON has no word for (NaN).
        """
        try:
            line = _encode(record(result, dropped_before, time.monotonic()))
        except ValueError as error:
            raise SinkWriteError(
                f"frame {result.frame.seq} of {result.stream!r} cannot be written as JSON: {error}; "
                "the model or its card is faulty, as NaN among its outputs shows"
            ) from error
        # A name from the command line can hold lone surrogates: UTF-8 has none, JSON's \uXXXX has.
        self._write_whole(line.encode("utf-8", "backslashreplace") + b"\n")
        self._lines += 1

    def _write_whole(self, line: bytes) -> None:
        start = 0
        try:
            # More than once only where the kernel took a part: a pipe, or the end of the disk,
            # whose error comes with the attempt to write the rest.
            while start < len(line):
                written = self._file.write(line[start:] if start else line)
                if written is None:  # someone made our standard output non-blocking
                    select.select([], [self._file], [])
                else:
                    start += written
        except OSError as error:
            written_so_far = self._so_far
            if start and self._cuttable:
                try:
                    self._file.truncate(self._file.tell() - start)
                except OSError:
                    written_so_far += ", and a part of another"
            raise SinkWriteError(f"cannot write {self._name}: {reason(error)}; {written_so_far}") from error

    @property
    def _so_far(self) -> str:
        return f"{self._lines} line{' was' if self._lines == 1 else 's were'} written"

    def close(self) -> None:
        """Close the file. Raises SinkWriteError where the file system reports a failure only now."""
        try:
            self._file.close()
        except OSError as error:
            raise SinkWriteError(f"cannot finish {self._name}: {reason(error)}; {self._so_far}") from error

    def abort(self) -> None:
        """The same as closing: there are only whole lines."""
        self.close()
