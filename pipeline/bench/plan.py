"""How many cameras this machine carries: found by running them, one number of streams after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.bench.point import bottleneck

KEEPS_UP = 0.98
"""Share of a camera's frames that must be captured: less, and its buffers, or the network's, run over."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a camera must be given. ``max_drop`` is a share, 0..1, of its frames."""

    fps: float
    p99_age_ms: float
    max_drop: float

    def broken(self, found: Mapping[str, Any]) -> dict[str, str]:
        """Which limits a trial breaks, each with the figures; of the stream that fares worst."""
        streams = found["streams"].values()
        captured = min(stream["captured_fps"] for stream in streams)
        dropped = max(stream["dropped_share"] for stream in streams)
        # A stream of which nothing came out has no age, and dropped everything.
        age = max((stream["p99_latency_ms"] or 0.0 for stream in streams), default=0.0)
        broken = {}
        # A frame that comes a little after the last look is not missing.
        if captured < KEEPS_UP * self.fps - 1 / found["seconds"]:
            broken["capture"] = f"capture falls behind: {captured:.1f} of {self.fps:g} frames/s"
        if dropped > self.max_drop:
            share = _above(100 * dropped, 100 * self.max_drop, 2)
            broken["drops"] = f"{share}% of a stream's frames are dropped (limit {self.max_drop:.2%})"
        if age > self.p99_age_ms:
            broken["age"] = f"p99 age {_above(age, self.p99_age_ms, 0)} ms (limit {self.p99_age_ms:g})"
        return broken


def _above(value: float, limit: float, digits: int) -> str:
    """``value`` with as many digits as it takes to see that it is above ``limit``."""
    while digits < 6 and round(value, digits) <= round(limit, digits):
        digits += 1
    return f"{value:.{digits}f}"


Run = Callable[[int, bool], Mapping[str, Any]]
"""A trial with so many streams; the second argument asks for a long one."""


def search(
    run: Run, limits: Limits, most: int, trials: list[dict[str, Any]], first: int = 1
) -> dict[str, Any]:
    """The greatest number of streams, up to ``most``, that keeps the limits; each trial, and what gives out.

    Doubles from ``first`` until a trial breaks a limit (or halves until one keeps them), bisects between the
    two, then confirms with long trials: the answer keeps the limits and one more breaks them. A long trial
    that fails takes the answer down by one. Each trial is put into ``trials`` as soon as it is over: where
    ``run`` raises, they are what was found.
    """

    def holds(count: int, confirm: bool = False) -> bool:
        found = run(count, confirm)
        broken = limits.broken(found)
        trials.append(_told(count, confirm, found, broken))
        return not broken

    good, bad = 0, most + 1
    count = min(first, most)
    while bad - good > 1:
        if holds(count):
            good = count
            count = min(2 * count, most) if bad > most else (good + bad) // 2
        else:
            bad = count
            count = (good + bad) // 2
    while good and not holds(good, confirm=True):
        bad, good = good, good - 1
    if good < most and not any(trial["streams"] == good + 1 and trial["confirming"] for trial in trials):
        while good < most and holds(good + 1, confirm=True):  # luck in the short trial
            good += 1
    worst = next((trial for trial in reversed(trials) if trial["streams"] == good + 1), None)
    return {
        "cameras": good,
        "at_most": good == most,
        "held_seconds": next((t["seconds"] for t in reversed(trials) if t["streams"] == good), None),
        "gives_out": worst and {key: worst[key] for key in ("broken", "bottleneck", "seconds")},
    }


def _told(count: int, confirm: bool, found: Mapping[str, Any], broken: Mapping[str, str]) -> dict[str, Any]:
    streams = found["streams"].values()
    return {
        "streams": count,
        "confirming": confirm,
        "seconds": found["seconds"],
        "holds": not broken,
        "broken": dict(broken),
        "fps": found["fps"],
        "p99_age_ms": max(stream["p99_latency_ms"] or 0.0 for stream in streams),
        "dropped_share": max(stream["dropped_share"] for stream in streams),
        "cores_used": found["cores_used"],
        "peak_mb": found["peak_mb"],
        "bottleneck": bottleneck(found["stages"], found["cores_used"], found["cores"]),
        "notes": [note for note in found["notes"] if not note.startswith("not steady")],
    }
