"""What the machine allows at best, from what each stage costs alone; the least of it is the bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.bench.alone import Cost


@dataclass(frozen=True, slots=True)
class Bound:
    """``fps`` over all streams that cannot be exceeded, and ``why``: one line of arithmetic."""

    what: str
    fps: float
    why: str


def bounds(
    costs: Mapping[str, Cost], *, cores: int, threads: Mapping[str, int], source_fps: float | None = None
) -> list[Bound]:
    """Every bound of a line, the tightest first.

    ``cores``: all stages share them, so no more frames/s than cores ÷ Σ CPU seconds per frame.
    A stage: each of its ``threads`` serves one frame, or one batch, at a time, or its part of one.
    ``source``: sources that deliver ``source_fps`` in all, where they are paced.
    """
    total = sum(cost.cpu_ms for cost in costs.values())
    found = [Bound("cores", 1000 * cores / total, f"{cores} cores ÷ {total:.2f} ms of CPU a frame")]
    for stage, cost in costs.items():
        count = threads.get(stage, 1)
        found.append(
            Bound(
                stage,
                1000 * count / max(cost.wall_ms, 1e-6),
                f"{count} thread{'s' * (count > 1)} ÷ {cost.wall_ms:.2f} ms a frame",
            )
        )
    if source_fps is not None:
        found.append(Bound("source", source_fps, "the sources deliver no more"))
    return sorted(found, key=lambda bound: bound.fps)
