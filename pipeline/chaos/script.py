"""A script as it runs: which fault is on for whom, and how often each was injected."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from pipeline.chaos.faults import Fault
from pipeline.redact import redact

log = logging.getLogger(__name__)


class Script:
    """The faults of one kit, its clock and its counts; for the kit's own thread, save :attr:`injected`."""

    def __init__(
        self, faults: Sequence[Fault], seed: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.faults, self.seed = list(faults), seed
        self._clock, self._began = clock, clock()
        self._hits = [0] * len(self.faults)
        self._victims = 0

    @property
    def now(self) -> float:
        """Seconds since the kit began."""
        return self._clock() - self._began

    @property
    def injected(self) -> Counter[str]:
        """What was injected so far, by kind: packets, pictures or connections that suffered it."""
        counts: Counter[str] = Counter()
        # A fault may be added meanwhile, by the kit's thread.
        for fault, hits in zip(self.faults, self._hits, strict=False):
            counts[fault.kind] += hits
        return counts

    def begin(self) -> None:
        """The clock starts now."""
        self._began = self._clock()

    def add(self, fault: Fault) -> None:
        """One more."""
        self._hits.append(0)
        self.faults.append(fault)

    def hit(self, fault: Fault, whom: str, detail: str = "") -> None:
        """Count one injection, and log it; those that come by the hundred for debug, after the first."""
        index = self._index(fault)
        self._hits[index] += 1
        level = logging.INFO if fault.lasts == 0 or self._hits[index] == 1 else logging.DEBUG
        log.log(
            level, "%.3f s: %s: %s%s", self.now, whom, redact(str(fault)), f" ({detail})" if detail else ""
        )

    def spent(self, fault: Fault) -> bool:
        """Whether it was injected as often as it may be."""
        return fault.times is not None and self._hits[self._index(fault)] >= fault.times

    def victim(self) -> Victim:
        """The script as it is for a new connection."""
        self._victims += 1
        return Victim(self, self._victims)

    def passed(self, kind: str) -> list[Fault]:
        """Those of a kind that happen once, by the kit's clock, and are past; in their order."""
        past = [fault for fault in self.faults if fault.kind == kind and fault.at <= self.now]
        return sorted(past, key=lambda fault: fault.at)

    def _index(self, fault: Fault) -> int:
        return next(index for index, one in enumerate(self.faults) if one is fault)


class Victim:
    """The script for one connection."""

    def __init__(self, script: Script, number: int) -> None:
        self.script, self.number, self.name = script, number, f"connection {number}"
        self.sent = 0
        """Bytes sent to the client."""
        self.began = self.played = script.now
        """When it was made, and when its first picture was due, in seconds since the kit began."""
        self.numbers = random.Random(f"{script.seed}/{number}")
        """Random numbers for what is no fault."""
        self._suffered: set[int] = set()
        self._since: dict[int, float] = {}
        self._random: dict[int, random.Random] = {}

    def chance(self, fault: Fault) -> random.Random:
        """The random numbers of a fault on this connection: the same for the same seed."""
        index = self.script._index(fault)
        if index not in self._random:
            # One each, so that one fault's draws do not depend on another's.
            self._random[index] = random.Random(f"{self.script.seed}/{self.number}/{index}")
        return self._random[index]

    def begins_in(self, fault: Fault, now: float | None = None) -> float | None:
        """Seconds until it begins by the clock; below 0 when it has begun, None if not by the clock.

        ``now``: of a picture, when it is due, in seconds since the kit began.
        """
        if fault.after_bytes is not None:
            return None
        if now is None:
            return fault.at + (self.began if fault.each else 0.0) - self.script.now
        # Sums of picture intervals are not exact, and a picture at the very time is meant.
        return round(fault.at + (self.played if fault.each else 0.0) - now, 6)

    def lasting(self, kind: str, now: float | None = None) -> Fault | None:
        """The one of a kind that is on now."""
        for index, fault in enumerate(self.script.faults):
            if fault.kind == kind and self._on(index, fault, now) and not self.script.spent(fault):
                return fault
        return None

    def left(self, fault: Fault) -> float:
        """Seconds that a lasting fault still goes on."""
        return self._since[self.script._index(fault)] + fault.lasts - self.script.now

    def once(self, kind: str, now: float | None = None) -> Fault | None:
        """One of a kind that this connection has come to, by the clock, and not suffered yet; it has, now."""
        for index, fault in enumerate(self.script.faults):
            if fault.kind != kind or index in self._suffered or self.script.spent(fault):
                continue
            wait = self.begins_in(fault, now)
            if wait is not None and wait <= 0 and not self.missed(fault):
                self._suffered.add(index)
                return fault
        return None

    def once_hit(self, kind: str, now: float | None = None) -> Fault | None:
        """As :meth:`once`, counted and logged."""
        fault = self.once(kind, now)
        if fault is not None:
            self.hit(fault)
        return fault

    def missed(self, fault: Fault) -> bool:
        """Whether it happened, by the kit's clock, before this connection was made."""
        return not fault.each and fault.at < self.began

    def next_by_bytes(self, count: int) -> tuple[Fault, int] | None:
        """The first that begins within the next ``count`` bytes, and how many of them come before it."""
        found: tuple[Fault, int] | None = None
        for index, fault in enumerate(self.script.faults):
            if fault.after_bytes is None or index in self._suffered or self.script.spent(fault):
                continue
            before = fault.after_bytes - self.sent
            if 0 <= before < count and (found is None or before < found[1]):
                found = fault, before
        if found is not None:
            self._suffered.add(self.script._index(found[0]))
        return found

    def hit(self, fault: Fault, detail: str = "") -> None:
        """Count and log one injection."""
        self.script.hit(fault, self.name, detail)

    def _on(self, index: int, fault: Fault, now: float | None) -> bool:
        wait = self.begins_in(fault, now)
        if wait is None or wait > 0:
            return False
        self._since[index] = (self.script.now if now is None else now) + wait
        return -wait < fault.lasts
