"""The sink for a run that wants no output: a measurement, or metrics alone."""

from __future__ import annotations

from pipeline.frame import Result
from pipeline.sinks.base import Sink


class Null(Sink):
    """Takes every result and keeps none."""

    kind = "null"

    def write(self, result: Result, dropped_before: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""
