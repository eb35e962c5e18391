"""Durations counted in buckets: flat memory, cheap to add to, quantiles good to 3 %."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from itertools import pairwise

BUCKETS = (
    *(mantissa * 10.0**exponent for exponent in range(-4, 1) for mantissa in (1, 2.5, 5)),
    10.0,
)
"""Upper bounds in seconds of the exported histograms: 0.1 ms to 10 s."""

_FINE = 32


def _fine_bounds() -> list[float]:
    """Each exported bucket cut into equal ratios, so that quantiles are good to 3 %."""
    bounds = [BUCKETS[0] * 10 ** (-2 + 2 * step / (2 * _FINE)) for step in range(2 * _FINE)]
    for low, high in pairwise(BUCKETS):
        bounds += [low * (high / low) ** (step / _FINE) for step in range(_FINE)]
    return [*bounds, BUCKETS[-1]]


_BOUNDS = _fine_bounds()
_EXPORTED = [bisect_left(_BOUNDS, bound * (1 - 1e-9)) for bound in BUCKETS]


class Histogram:
    """Durations in seconds in a fixed number of buckets: flat memory, cheap to add to, thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(_BOUNDS) + 1)
        self.count = 0
        self.sum = 0.0
        self._max = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Add a duration, ``times`` over."""
        index = bisect_left(_BOUNDS, seconds)
        with self._lock:
            self._counts[index] += times
            self.count += times
            self.sum += seconds * times
            if seconds > self._max:
                self._max = seconds

    def add(self, other: Histogram) -> None:
        """Add all of another one's observations."""
        with other._lock:
            counts, count, total, largest = list(other._counts), other.count, other.sum, other._max
        with self._lock:
            self._counts = [mine + theirs for mine, theirs in zip(self._counts, counts, strict=True)]
            self.count += count
            self.sum += total
            self._max = max(self._max, largest)

    def copy(self) -> Histogram:
        """What has been observed until now."""
        other = Histogram()
        other.add(self)
        return other

    def since(self, earlier: Histogram) -> Histogram:
        """What has been observed since ``earlier`` was copied from this one.

        Its largest value is that of the whole time, unless the finest bucket tells better.
        """
        recent = self.copy()
        recent._counts = [now - then for now, then in zip(recent._counts, earlier._counts, strict=True)]
        recent.count -= earlier.count
        recent.sum -= earlier.sum
        top = max((index for index, count in enumerate(recent._counts) if count), default=0)
        recent._max = min(recent._max, _BOUNDS[top]) if top < len(_BOUNDS) else recent._max
        return recent

    def mean(self) -> float | None:
        """Seconds; None without any observation."""
        with self._lock:
            return self.sum / self.count if self.count else None

    def quantile(self, q: float) -> float | None:
        """The duration that a share ``q`` (0..1) of observations does not exceed; None without any.

        The nearest-rank quantile, rounded up to its fine bucket's upper bound (at most 3 %
        in the exported range) and never above the largest value seen.
        """
        with self._lock:
            if not self.count:
                return None
            rank = max(1, math.ceil(q * self.count))
            seen = 0
            for index, count in enumerate(self._counts):
                seen += count
                if seen >= rank:
                    return min(_BOUNDS[index], self._max) if index < len(_BOUNDS) else self._max
        raise AssertionError("counts and count disagree")

    def buckets(self) -> tuple[list[tuple[float, int]], int, float]:
        """Cumulative counts per bound of ``BUCKETS``, the count and the sum, from one moment."""
        with self._lock:
            counts, count, total = list(self._counts), self.count, self.sum
        cumulative, seen, start = [], 0, 0
        for bound, index in zip(BUCKETS, _EXPORTED, strict=True):
            seen += sum(counts[start : index + 1])
            start = index + 1
            cumulative.append((bound, seen))
        return cumulative, count, total
