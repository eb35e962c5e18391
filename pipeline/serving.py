"""The model that serves the line now: replaced in place, and opened afresh where its provider fails.

Frames are prepared for the model of the moment and carry it along (``Prepared.serving``): those that were
prepared for an earlier one are finished by that one, which is let go with the last of them.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle, groupby, islice
from operator import attrgetter
from typing import Any

from pipeline.errors import PipelineError, ProviderFault
from pipeline.flow import Call, Dropped
from pipeline.frame import Frame, Prepared, Raw, Result
from pipeline.memory import give_back
from pipeline.runtime.faults import is_provider_fault
from pipeline.runtime.model import Model
from pipeline.stages.infer import Infer
from pipeline.stages.postprocess import Postprocess, Thresholds
from pipeline.stages.preprocess import BlobPool, Preprocess

log = logging.getLogger(__name__)

RETRY_SECONDS, RETRY_FACTOR, MOST_RETRY_SECONDS = 1.0, 4.0, 30.0
"""Until a model that cannot be opened is tried again, how much longer each time, and the most: a device
that was reset needs some seconds, and frames wait meanwhile."""


class Serving:
    """One model's part of the stages: what each of their workers calls."""

    def __init__(
        self, model: Model, thresholds: Thresholds, *, preparing: int, inferring: int, batch: int, keep: bool
    ) -> None:
        """For ``preparing`` workers of preprocess and ``inferring`` of infer, with up to ``batch`` frames a
        run; ``keep``: see Preprocess."""
        self.model = model
        pool = BlobPool(model.spec.dtype)
        this = weakref.ref(self)  # else it went with the next collection of garbage, some day
        self.preprocess = [Preprocess(model.spec, pool, keep=keep, serving=this) for _ in range(preparing)]
        sessions = islice(cycle(model.sessions), inferring)
        self.infer = [Infer(session.bound(batch, model.spec), pool) for session in sessions]
        self.postprocess = Postprocess(model, thresholds)
        self.replacement: Serving | None = None
        """A fresh one of the same model, where this one's provider has failed."""

    def __del__(self) -> None:
        """Another took its place and the last of its frames has left: its memory goes back to the system."""
        vars(self).clear()
        give_back()

    @property
    def working(self) -> Serving:
        """Itself, or what stands in for it."""
        serving = self
        while serving.replacement is not None:
            serving = serving.replacement
        return serving


class Server:
    """The stages' calls, and what they go to.

    A run that a provider fails costs its own frames: they are dropped (``provider_fault``), and the model is
    opened afresh, at most ``restarts`` times in ``within`` seconds; one that cannot be opened is tried again
    as often as there are restarts left, unless another is put in its place. Then the fault is raised, once.
    """

    def __init__(
        self,
        first: Serving,
        reopen: Callable[[], Serving],
        *,
        restarts: int,
        within: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current = first
        self.healing = False
        """Whether the model is being opened afresh right now: frames wait meanwhile."""
        self.restarted = 0
        """Times that it was."""
        self._reopen = reopen
        self._restarts, self._within, self._clock = restarts, within, clock
        self._times: deque[float] = deque()
        self._changed = threading.Condition()
        self._over = False
        """Nothing is opened any more: it was in vain, or the line was cancelled."""
        self._hurried = False

    def hurry(self) -> None:
        """The line is to end: a model that cannot be opened is not waited for."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()

    def give_up(self) -> None:
        """The line was cancelled: no model is opened any more."""
        with self._changed:
            self._over = self._hurried = True
            self._changed.notify_all()

    def replace(self, serving: Serving, reopen: Callable[[], Serving]) -> None:
        """From now on frames are prepared for ``serving``, which ``reopen`` opens afresh."""
        with self._changed:
            self.current, self._reopen = serving, reopen
            self._changed.notify_all()

    def preprocess(self, worker: int) -> Call:
        """What worker number ``worker`` of preprocess calls."""

        def call(frames: list[Frame]) -> list[Prepared]:
            serving = self.current  # which stays until they are prepared
            return serving.preprocess[worker](frames)

        return call

    def infer(self, worker: int) -> Call:
        """What worker number ``worker`` of infer calls."""

        def call(batch: list[Prepared]) -> list[Any]:
            serving = batch[0].serving
            if len(batch) == 1 or all(item.serving is serving for item in batch):
                return self._run(serving, worker, batch)
            parts = [list(part) for _, part in groupby(batch, attrgetter("serving"))]
            return [raw for part in parts for raw in self._run(part[0].serving, worker, part)]

        return call

    def postprocess(self, raws: Sequence[Raw]) -> list[Result]:
        """Raw to Result, one each."""
        serving: Serving = raws[0].serving
        if len(raws) == 1 or all(raw.serving is serving for raw in raws):
            return serving.postprocess(list(raws))
        return [result for raw in raws for result in raw.serving.postprocess([raw])]

    def _run(self, serving: Serving, worker: int, batch: list[Prepared]) -> list[Any]:
        serving = serving.working
        try:
            return serving.infer[worker](batch)
        except Exception as error:
            if not is_provider_fault(error):
                raise
            # What failed would stay for as long as the frames of the error do.
            fault = error.with_traceback(None)
        self._heal(serving, fault)
        return [Dropped(item, "provider_fault") for item in batch]

    def _heal(self, failed: Serving, fault: Exception) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self.healing or failed is not self.current)
            if failed is not self.current or self._over:  # opened afresh for another worker, or replaced
                return
            now = self._clock()
            while self._times and now - self._times[0] > self._within:
                self._times.popleft()
            reopen, left, self.healing = self._reopen, self._restarts - len(self._times), True
        said = " ".join(str(fault).split())[:300]
        try:
            # Without the lock: meanwhile another model may take this one's place.
            self._open(failed, reopen, left, f"{failed.model.session.active} failed: {said}")
        except ProviderFault:
            self._over = True
            raise
        finally:
            with self._changed:
                self.healing = False
                self._changed.notify_all()

    def _open(self, failed: Serving, reopen: Callable[[], Serving], left: int, told: str) -> None:
        """Open the model afresh, in ``left`` tries; none is made once another took its place, or the line is
        to end. Raises ProviderFault."""
        pause, within = RETRY_SECONDS, f"within {self._within / 60:g} minutes"
        while left > 0:
            left -= 1
            self._times.append(self._clock())
            log.error("%s; the model is opened afresh (restart %d of %d %s)",
                      told, len(self._times), self._restarts, within)  # fmt: skip
            try:
                fresh = reopen()
            except PipelineError as error:
                told = f"the model cannot be opened after a fault of its provider: {error}"
            else:
                with self._changed:
                    if failed is not self.current:
                        return
                    self.restarted += 1
                    failed.replacement = self.current = fresh
                log.warning("the model runs again on %s", fresh.model.session.active)
                return
            with self._changed:
                if left > 0:
                    self._changed.wait_for(lambda: self._hurried or failed is not self.current, pause)
                if self._over or failed is not self.current:
                    return
            if self._hurried:
                break
            pause = min(pause * RETRY_FACTOR, MOST_RETRY_SECONDS)
        many = f"{len(self._times)} restart{'s' * (len(self._times) != 1)}"
        raise ProviderFault(
            f"{told}; {many} {within} did not help; see framerail doctor, or choose another provider"
        )
