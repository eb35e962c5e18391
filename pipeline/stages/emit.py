"""Results to sinks, in the thread that runs the line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.accounts import StreamAccount
from pipeline.frame import Result
from pipeline.sinks import Sink


class Emit:
    """Writes every result to every sink, in order."""

    def __init__(self, sinks: Sequence[Sink], accounts: Mapping[str, StreamAccount]) -> None:
        self._sinks = sinks
        self._accounts = accounts

    def __call__(self, results: list[Result]) -> list[Result]:
        """Results as they came, written."""
        for result in results:
            dropped_before = self._accounts[result.stream].dropped_before(result.frame.seq)
            for sink in self._sinks:
                sink.write(result, dropped_before)
        return results

    def idle(self) -> None:
        """No result has come for a while."""
        for sink in self._sinks:
            sink.idle()
