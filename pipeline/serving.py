"""The models that serve the line now: replaced in place, and opened afresh where their provider fails.

Frames are prepared for the model of the moment and carry it along (``Prepared.serving``): those that were
prepared for an earlier one are finished by that one, which is let go with the last of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import cycle, groupby, islice
from operator import attrgetter
from typing import Any

from pipeline.flow import Call, Dropped
from pipeline.frame import Frame, Prepared, Raw, Result
from pipeline.healing import Healed
from pipeline.memory import give_back
from pipeline.runtime.model import Model
from pipeline.stages.classify import Classify
from pipeline.stages.infer import Infer
from pipeline.stages.match import Matched
from pipeline.stages.postprocess import Postprocess, Thresholds
from pipeline.stages.preprocess import BlobPool, Preprocess


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


class Server(Healed[Serving]):
    """The stages' calls, and what they go to. Frames in a run that its provider fails are dropped
    (``provider_fault``)."""

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
        raws = self.attempt(serving, serving.infer[worker], batch)
        return [Dropped(item, "provider_fault") for item in batch] if raws is None else raws

    def _stands_in(self, failed: Serving, fresh: Serving) -> None:
        failed.replacement = fresh


class SecondServer(Healed[Classify]):
    """The call of the second model's stage, and what it goes to."""

    def __call__(self, items: list[Result | Matched]) -> list[Any]:
        """As Classify. Where its provider fails, the frames with objects that have no answer by then are
        dropped (``provider_fault``), and the others go on."""
        stage = self.current
        results = self.attempt(stage, stage, items)
        if results is not None:
            return results
        return [
            Dropped(item, "provider_fault")
            if isinstance(item, Matched) and any(item.unanswered())
            else stage.finished(item)
            for item in items
        ]
