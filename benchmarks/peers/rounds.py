"""Adapters as processes, rounds that interleave them, and the arithmetic of what they say."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.peers.table import OURS, TUNED, Peer
from pipeline.bench.machine import busy_seconds
from pipeline.errors import PipelineError

T = TypeVar("T")

TIMEOUT_SECONDS = 900


class PeerError(PipelineError):
    """A peer that cannot be measured, and why."""


@dataclass(frozen=True, slots=True)
class Task:
    """What every peer is asked to do."""

    model: str
    clip: str
    frames: int
    warm_up: int
    conf: float
    iou: float
    max_detections: int
    size: int

    def arguments(self, peer: Peer, detections: Path) -> list[str]:
        """For the adapter's command line."""
        asked = {**asdict(self), "model": peer.model or self.model, "detections": detections}
        pairs = [(f"--{key.replace('_', '-')}", str(value)) for key, value in asked.items()]
        options = ["--options", json.dumps(dict(peer.options))] if peer.options else []
        return [*(text for pair in pairs for text in pair), *options]


def run(peer: Peer, task: Task, venvs: Path, scratch: Path) -> dict[str, Any]:
    """Run an adapter once; what it said, with ``others_cores`` used by everything else meanwhile.

    Its detections are in ``scratch / NAME.npz`` then. Raises PeerError where it fails.
    """
    python = peer.python(venvs)
    if not python.exists():
        raise PeerError(_why_missing(peer, venvs))
    command = [str(python), str(peer.script), *task.arguments(peer, scratch / f"{peer.name}.npz")]
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PYTHONNOUSERSITE": "1"}
    # Settings that some write into the home folder go to the scratch folder.
    environment |= {"YOLO_CONFIG_DIR": str(scratch), "MPLCONFIGDIR": str(scratch), **peer.variables}
    if "PYTHONPATH" not in peer.variables:
        environment.pop("PYTHONPATH", None)
    begun, busy_before, own_before = time.monotonic(), busy_seconds(), _children_seconds()
    try:
        done = subprocess.run(
            command, cwd=scratch, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"{peer.name}: no result within {TIMEOUT_SECONDS} s") from None
    wall, busy_after = time.monotonic() - begun, busy_seconds()
    said = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), None)
    if done.returncode or said is None:
        last = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]
        raise PeerError(f"{peer.name}: exit code {done.returncode}: {''.join(last) or 'no word on why'}")
    others = None
    if busy_before is not None and busy_after is not None:
        others = max(0.0, busy_after - busy_before - (_children_seconds() - own_before)) / wall
    return {**json.loads(said), "others_cores": others}


def _children_seconds() -> float:
    """CPU seconds of the processes that this one has waited for."""
    times = os.times()
    return times.children_user + times.children_system


def _why_missing(peer: Peer, venvs: Path) -> str:
    assert peer.environment is not None
    failure = peer.environment.failure(venvs)
    if failure.exists():
        return f"{peer.name}: {failure.read_text(encoding='utf-8').strip()}"
    return (
        f"{peer.name}: no environment {peer.environment.name!r}; make it: python -m benchmarks.peers.setup "
        f"{peer.environment.name}"
    )


def rotated(names: Sequence[T], number: int) -> list[T]:
    """The order of one round: every other round is the one before it backwards, each pair begins one further.

    So of any two each runs before the other as often as after it, and nobody is always the first.
    """
    at = number // 2 % len(names)
    order = [*names[at:], *names[:at]]
    return order[::-1] if number % 2 else order


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def fps(said: Mapping[str, Any]) -> float:
    """Frames a second of one run."""
    return float(said["frames"] / said["seconds"])


def ratios(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Our rate ÷ theirs, round by round: what slowed a whole round down slowed both."""
    return [fps(one) / fps(other) for one, other in zip(ours, theirs, strict=True)]


def figures(name: str, said: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """What the rounds of one peer amount to, given everybody's; nothing where there were none."""
    mine = said[name]
    if not mine:
        return {}
    others = [one["others_cores"] for one in mine if one["others_cores"] is not None]
    return {
        "fps": spread([fps(one) for one in mine]),
        "cpu_ms_per_frame": spread([one["cpu_seconds"] / one["frames"] * 1000 for one in mine]),
        "cores_used": spread([one["cpu_seconds"] / one["seconds"] for one in mine]),
        "others_cores": spread(others) if others else None,
        "ratios": {ours: spread(ratios(said[ours], mine)) for ours in (OURS, TUNED) if said.get(ours)},
        "rounds": [{key: one[key] for key in ("seconds", "cpu_seconds", "others_cores")} for one in mine],
    }
