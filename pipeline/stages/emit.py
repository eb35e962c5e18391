"""Results to outputs, in the thread that runs the line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipeline.accounts import StreamAccount
from pipeline.frame import Result
from pipeline.sinks import Output


class Emit:
    """Gives every result to every output, in order."""

    def __init__(
        self,
        outputs: Sequence[Output],
        accounts: Mapping[str, StreamAccount],
        live: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """``live`` tells of a stream whether it is: an output that is slow must not hold it up."""
        self._outputs = outputs
        self._accounts = accounts
        self._live = live

    def __call__(self, results: list[Result]) -> list[Result]:
        """Results as they came, written or waiting for an output's own thread."""
        for result in results:
            stream = result.stream
            dropped_before = self._accounts[stream].dropped_before(result.frame.seq)
            live = self._live(stream)
            for output in self._outputs:
                output.put(result, dropped_before, live)
        return results

    def idle(self) -> None:
        """No result has come for a while."""
        for output in self._outputs:
            output.idle()
