"""Two results of ``framerail bench``: what got slower beyond noise."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

LEAST_NOISE = 0.05
"""Windows of one run within this are called steady: no smaller difference means anything."""


MOST = 1e12
"""No figure of a result is larger: a file that says so is damaged."""
_NEEDED = {"asked", "source", "model", "label", "fps", "stages", "windows"}
_NOTHING = "the two results have no point in common: other model, source, streams or sweep"


@dataclass(frozen=True, slots=True)
class Change:
    """A figure then and now. ``ratio`` is speed now ÷ speed then, ``noise`` the share that proves nothing."""

    point: str
    what: str
    unit: str
    then: float
    now: float
    ratio: float
    noise: float
    error: str = ""
    """Why it cannot be had now."""

    def __str__(self) -> str:
        where = f"{self.point}: " if self.point else ""
        if self.error:
            return f"{where}{self.then:,.2f} {self.unit} then, and now it {self.verdict}: {self.error}"
        return (
            f"{where}{self.what} is {self.verdict}: {self.then:,.2f} → {self.now:,.2f} {self.unit} "
            f"(noise {self.noise:.0%})"
        )

    @property
    def verdict(self) -> str:
        """``slower``, ``faster``, or ``same`` where the difference is within noise; ``cannot run``."""
        if self.error:
            return "cannot run"
        if self.ratio < 1 - self.noise:
            return "slower"
        return "faster" if self.ratio > 1 / (1 - self.noise) else "same"

    @property
    def worse(self) -> bool:
        """Whether it is slower beyond noise, or gone."""
        return self.verdict in ("slower", "cannot run")


def load(path: str) -> dict[str, Any]:
    """A result that was written with ``--json``. Raises ConfigError."""
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        if report["kind"] != "framerail bench":
            raise KeyError("kind")
        if not all("error" in each or each.keys() >= _NEEDED for each in report["points"]):
            raise KeyError("points")
        if not all("error" in each or _can_be(each) for each in report["points"]):
            raise ValueError("points")
        report["machine"]["versions"].items()
        differences(report, report)
        if report["points"]:
            compare(report, report)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise ConfigError(f"{path} is no result of `framerail bench --json`") from None
    found: dict[str, Any] = report
    return found


def _can_be(point: Mapping[str, Any]) -> bool:
    """Whether its figures are numbers that something can have measured: NaN is slower than nothing."""
    times = (stage["alone_cpu_ms"] for stage in point["stages"].values())
    return 0 < point["fps"] < MOST and all(0 <= value < MOST for value in (*point["windows"], *times))


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Frames/s, and CPU time of each stage alone, of the points that both have; frames/s alone of a point
    that could run then and cannot now.

    Raises ConfigError where they have none in common.
    """
    then = {_key(point): point for point in old["points"] if "error" not in point}
    changes = [
        change
        for point in new["points"]
        if "error" not in point and _key(point) in then
        for change in _changes(then[_key(point)], point)
    ]
    for point in new["points"]:
        if "error" in point and _key(point) in then:
            before, what = then[_key(point)], ("throughput", "frames/s")
            noise = max(LEAST_NOISE, _spread(before))
            changes.append(Change(point["label"], *what, before["fps"], 0.0, 0.0, noise, point["error"]))
    if not changes:
        raise ConfigError(_NOTHING)
    return changes


def check_comparable(old: Mapping[str, Any], planned: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError now where no point that is planned (``asked``, ``source``, ``of``) is in ``old``."""
    there = {_key(point) for point in old["points"] if "error" not in point}
    if not any(_key(each) in there for each in planned):
        raise ConfigError(_NOTHING)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What else differs: another machine, versions or copy of the model explain what the code does not."""
    before, after = old["machine"], new["machine"]
    found = [f"{key}: {before[key]} → {after[key]}" for key in ("cpu", "cores") if before[key] != after[key]]
    now = after.get("gpus", [])
    if (then := before.get("gpus", now)) != now:  # results of before framerail said them have none
        found.append(f"GPUs: {', '.join(then) or 'none'} → {', '.join(now) or 'none'}")
    names = sorted({*before["versions"], *after["versions"]})
    pairs = [(name, before["versions"].get(name), after["versions"].get(name)) for name in names]
    found += [f"{name}: {one} → {two}" for name, one, two in pairs if one != two]
    return found + list(_profiles(old, new)) + list(_copies(old, new))


def _profiles(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Points of which one went by a profile, and the other by none or another."""
    then = {_key(point): point for point in old["points"] if "error" not in point}
    for point in new["points"]:
        before = then.get(_key(point)) if "error" not in point else None
        if before is not None and before.get("profile") != point.get("profile"):
            where = f"{point['label']}: " if point["label"] else ""
            yield f"{where}profile: {before.get('profile') or 'none'} → {point.get('profile') or 'none'}"


def _copies(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Points of one precision whose copies are not the same, with what each has lost."""
    then = {_key(point): point["precision"] for point in old["points"] if "precision" in point}
    for point in new["points"]:
        now = point.get("precision")
        before = then.get(_key(point)) if now is not None else None
        if before is not None and before["copy_sha256"] != now["copy_sha256"]:
            lost = (f"{said(each['ap_loss'])} AP lost" for each in (before, now))
            yield f"{point['label']}: another copy of the model: {' → '.join(lost)}"


def said(ap_loss: float | None) -> str:
    """AP (0..1) that is lost, for people; a copy may do better than its model, if by chance."""
    return "unknown" if ap_loss is None else f"{ap_loss:.4f}"


def _key(point: Mapping[str, Any]) -> str:
    # A copy is made anew with every version: its point is that of the model it was made of.
    of = point["precision"]["of"] if "precision" in point else point.get("of") or point["model"]
    return json.dumps([point["asked"], point["source"], of["sha256"]], sort_keys=True)


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    label = now["label"]
    noise = max(LEAST_NOISE, _spread(then), _spread(now))
    yield Change(label, "throughput", "frames/s", then["fps"], now["fps"], now["fps"] / then["fps"], noise)
    for name, stage in now["stages"].items():
        if name not in then["stages"]:  # another version's
            continue
        earlier = then["stages"][name]
        before, after = earlier["alone_cpu_ms"], stage["alone_cpu_ms"]
        noise = max(2 * LEAST_NOISE, earlier["alone_spread"] + stage["alone_spread"])
        if max(before, after) > 0.01 * sum(each["alone_cpu_ms"] for each in now["stages"].values()):
            yield Change(label, f"{name} alone", "ms of CPU", before, after, before / after, min(noise, 0.99))


def _spread(point: Mapping[str, Any]) -> float:
    recent: Sequence[float] = point["windows"][-point["counted"] :]
    return min((max(recent) - min(recent)) / statistics.median(recent), 0.99)
