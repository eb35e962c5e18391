"""The fastest settings of a line, by trying them: one kind of setting after another, the best so far kept.

Two measurements of one setting differ by a few per cent on a shared machine, so nothing is taken for
faster on one look: what seems faster is measured again, in turn with what it would replace.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError, PipelineError, SinkWriteError

Setting = Mapping[str, Any]
"""Keys of Config and their values."""

PROMISING, FASTER = 1.01, 1.03
"""How much faster than the best so far a setting must look to be measured again, and be to be taken."""
AGAIN = 2
"""How often it is measured again."""


@dataclass(frozen=True, slots=True)
class Step:
    """Settings of one kind, each put on top of the best so far. ``changes_answers``: they cost accuracy."""

    name: str
    settings: Sequence[Setting]
    changes_answers: bool = False


@dataclass(frozen=True, slots=True)
class Tried:
    """A setting, how fast it was (frames/s, every time), and why it was left out where it was."""

    setting: Setting
    rates: tuple[float, ...]
    error: str = ""
    ap_loss: float | None = None

    @property
    def rate(self) -> float:
        """The median; 0 where it cannot run."""
        return statistics.median(self.rates) if self.rates else 0.0


class ModelChangedError(ModelError):
    """The model's file became another one while it was tuned."""


class Journal:
    """Trials that were made, in a file, so that an interrupted tuning goes on where it was.

    ``key`` says what was tuned, and how: a file with another one is begun anew. Trials that failed are not
    kept: what was wrong (memory, a file) may be mended. Raises SinkWriteError.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self._path = path
        # A source's address may hold a password.
        self._key = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self._known: dict[str, list[dict[str, Any]]] = {}
        self.resumed = 0
        """Trials that need not be made again."""
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            if said["key"] == self._key:
                self._known = {
                    setting: [{"fps": float(each["fps"])} for each in trials]
                    for setting, trials in said["trials"].items()
                }
                self.resumed = sum(map(len, self._known.values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # there is none, or none of use: both mean to begin

    def trial(self, setting: Setting, number: int, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The ``number``-th trial of ``setting``: what the file says, else what ``make`` returns."""
        known = self._known.setdefault(json.dumps(dict(setting), sort_keys=True), [])
        if number < len(known):
            return known[number]
        known.append(make())
        if "error" in known[-1]:
            return known[-1]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # In one step: interrupted in the midst of writing, the trials before would be lost.
            part = self._path.with_suffix(".part")
            trials = {
                tried: [each for each in found if "error" not in each] for tried, found in self._known.items()
            }
            part.write_text(json.dumps({"key": self._key, "trials": trials}), encoding="utf-8")
            part.replace(self._path)
        except OSError as error:
            raise SinkWriteError(f"cannot write {self._path}: {error.strerror}") from None
        return known[-1]

    def remove(self) -> None:
        """Tuning is done."""
        self._path.unlink(missing_ok=True)


@dataclass(slots=True)
class Climb:
    """``run`` makes a trial of a setting and returns its frames/s, or raises PipelineError where it cannot.

    ``loss_of`` measures the AP (0..1) that a setting costs; one that costs more than ``max_loss`` is out.
    """

    run: Callable[[Setting], float]
    loss_of: Callable[[Setting], float]
    max_loss: float
    journal: Journal
    tell: Callable[[str], None]
    tried: list[Tried] = field(default_factory=list)

    def best(self, base: Setting, steps: Iterable[Step]) -> Tried:
        """The fastest setting found from ``base`` on."""
        best = self._measure(base, 1)
        if best.error:
            raise PipelineError(best.error)
        for step in steps:
            best = self._step(step, best)
        return best

    def _step(self, step: Step, best: Tried) -> Tried:
        rivals = []
        for change in step.settings:
            setting = {**best.setting, **change}
            if setting == dict(best.setting):
                continue
            tried = self._measure(setting, 1, best.ap_loss)  # what changes no answer costs what the best does
            if tried.rate > PROMISING * best.rate:
                rivals.append(tried)
        for rival in sorted(rivals, key=lambda tried: -tried.rate):
            if step.changes_answers:
                try:
                    loss = self.loss_of(rival.setting)
                except (PipelineError, ExceptionGroup) as error:
                    # Such as footage in which nothing is seen: what else was found still counts.
                    self._note(replace(rival, error=f"its loss of AP cannot be measured: {said_by(error)}"))
                    continue
                if loss > self.max_loss:
                    self._note(Tried(rival.setting, rival.rates, f"costs {loss:.4f} AP", loss))
                    continue
                rival = replace(rival, ap_loss=loss)
            best, rival = self._in_turn(best, rival)
            if rival.rate > FASTER * best.rate:
                self.tell(f"{step.name}: {said(rival.setting)}: {rival.rate / best.rate:.2f} x as fast")
                best = rival
                break
        return best

    def _in_turn(self, best: Tried, rival: Tried) -> tuple[Tried, Tried]:
        """Both measured again, the one after the other."""
        for number in range(2, 2 + AGAIN):
            best, rival = (self._measure(each.setting, number, each.ap_loss) for each in (best, rival))
        return best, rival

    def _measure(self, setting: Setting, count: int, ap_loss: float | None = None) -> Tried:
        """``setting``, measured ``count`` times in all."""
        rates, error = [], ""
        for number in range(count):
            found = self.journal.trial(setting, number, lambda: self._trial(setting))
            if "error" in found:
                error = found["error"]
                break
            rates.append(found["fps"])
        tried = Tried(setting, tuple(rates), error, ap_loss)
        self._note(tried)
        return tried

    def _trial(self, setting: Setting) -> dict[str, Any]:
        self.tell(said(setting))
        try:
            return {"fps": self.run(setting)}
        except ModelChangedError:
            raise
        except (PipelineError, ExceptionGroup) as error:
            return {"error": said_by(error)}

    def _note(self, tried: Tried) -> None:
        self.tried = [each for each in self.tried if dict(each.setting) != dict(tried.setting)] + [tried]


def said_by(error: Exception) -> str:
    """What a trial raised, in one line."""
    return "; ".join(map(str, error.exceptions)) if isinstance(error, ExceptionGroup) else str(error)


def said(setting: Setting) -> str:
    """For people."""
    words = {"infer_workers": "runs at once", "infer_threads": "threads each", "infer_spinning": "spinning"}
    words["fuse"] = "fused preprocessing"
    return ", ".join(f"{words.get(key, key)} {_shown(value)}" for key, value in setting.items()) or "defaults"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and value.endswith(".onnx"):
        precision = re.search(r"-(int8|fp16)-[0-9a-f]+\.onnx$", value)
        return f"in {precision[1]}" if precision is not None else Path(value).name
    return str(value)


def concurrencies(cores: int) -> Iterator[Setting]:
    """Runs at once × threads of each: from one with all cores to half as many again as there are cores."""
    seen = set()
    for workers in (1, 2, *range(4, cores + 1, 2), cores, cores + max(1, cores // 2)):
        for threads in (max(1, cores // workers), 1):
            if workers <= 2 * cores and (workers, threads) not in seen:
                seen.add((workers, threads))
                yield {"infer_workers": workers, "infer_threads": threads}
