"""Blobs to raw outputs: one run of the session for all frames that were taken together."""

from __future__ import annotations

from pipeline.frame import Prepared, Raw
from pipeline.runtime.binding import Runner
from pipeline.stages.preprocess import BlobPool


class Infer:
    """May be shared by several workers where ``session`` may: a session's runs don't disturb each other,
    those of one binding do."""

    def __init__(self, session: Runner, pool: BlobPool) -> None:
        self._session = session
        self._pool = pool

    def __call__(self, batch: list[Prepared]) -> list[Raw]:
        """Prepared to Raw, one each; the blobs go back to their pool.

        Blobs of one shape go through the model together.
        """
        if len(batch) == 1:
            (item,) = batch
            outputs = self._session.run(item.blob)
            self._pool.give_back(item.blob)
            return [Raw(item.frame, item.letterbox, outputs, item.serving)]
        raws: dict[int, Raw] = {}
        for shape in dict.fromkeys(item.blob.shape for item in batch):
            alike = [item for item in batch if item.blob.shape == shape]
            raws |= dict(zip(map(id, alike), self._run(alike), strict=True))
        return [raws[id(item)] for item in batch]

    def _run(self, batch: list[Prepared]) -> list[Raw]:
        blobs = [item.blob for item in batch]
        outputs = self._session.run(*blobs)
        for blob in blobs:
            self._pool.give_back(blob)
        return [
            Raw(item.frame, item.letterbox, [each[index : index + 1] for each in outputs], item.serving)
            for index, item in enumerate(batch)
        ]
