"""All outputs of a line: which have a thread of their own, and what becomes of the line when one is lost."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from pipeline.flow import Flow
from pipeline.redact import redact
from pipeline.sinks.base import Sink
from pipeline.sinks.handoff import HandOff
from pipeline.sinks.null import Null
from pipeline.sinks.output import Expired, Output

log = logging.getLogger(__name__)


class Outputs(Sequence[Output]):
    """Made when the sinks are open, started with the line; ended once, whether or not it was started."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        on_error: str = "end",
        timeout: float | None = None,
        expired: Expired | None = None,
    ) -> None:
        """``on_error``: ``end`` or ``go_on``. ``timeout``: seconds that a file waits for a stuck output.
        ``expired``: what is too old by the time that a sink would get it; None: nothing is."""
        self._on_error = on_error
        self._expired = expired
        self._flow: Flow | None = None
        self._ended = False
        names: Counter[str] = Counter()
        self._outputs: list[Output] = []
        # The null sink (not one that is made from it) has nothing to be told of, and each call counts in an
        # empty line.
        sinks = [sink for sink in sinks if type(sink) is not Null]
        for sink in sinks:
            name = getattr(sink, "kind", "") or type(sink).__name__
            names[name] += 1
            name = name if names[name] == 1 else f"{name}-{names[name]}"
            self._outputs.append(self._made(name, sink, timeout if len(sinks) > 1 else None))
        self._with_thread = [each for each in self._outputs if isinstance(each, HandOff)]
        self.in_turn: list[Output] = sorted(self._outputs, key=lambda each: not isinstance(each, HandOff))
        """As they are given results: those with a thread first, since the others take their time here."""

    def _made(self, name: str, sink: Sink, timeout: float | None) -> Output:
        def fails(error: Exception) -> None:
            """In the thread that emits."""
            if self._on_error == "end":
                raise error
            self._went_on(name, error)

        def lost(error: Exception) -> None:
            if self._on_error == "end" and self._flow is not None:
                self._flow.fail("emit", error)
            else:
                self._went_on(name, error)

        if getattr(sink, "own_thread", False):
            return HandOff(name, sink, lost, timeout, self._expired)
        return Output(name, sink, fails, self._expired)

    def _went_on(self, name: str, error: Exception) -> None:
        log.error("output %s is lost, the line goes on without it: %s", name, redact(str(error)))

    def start(self, flow: Flow) -> None:
        """Start the outputs' threads; ``flow`` is failed where an output is lost and the line is to end."""
        self._flow = flow
        flow.on_cancel(self._wake)
        for output in self._outputs:
            output.start()
            if output.thread is not None:
                flow.writers.add(output.thread)

    def release(self, stream: str) -> None:
        """A stream was removed from the line, its frames emitted: what is held for it alone is finished."""
        for output in self._outputs:
            output.release(stream)

    def wait_for_room(self, stop: threading.Event) -> None:
        """Hold a file up, before it takes its next picture, until each output with a thread has room, or
        ``stop`` is set; see :mod:`pipeline.sinks.handoff`."""
        for output in self._with_thread:
            output.wait_for_room(stop)

    def look_again(self) -> None:
        """A stream was stopped: where it waits for room, it need not."""
        for output in self._with_thread:
            output.look_again()

    def hurry(self) -> None:
        """The line was asked to end: from now on a stuck output is given up after a while."""
        for output in self._outputs:
            output.hurry()

    def end(self, abort: bool) -> list[Exception]:
        """Finish every output, those with threads side by side; what went wrong in any of them.

        What is no Exception (Ctrl-C in one's ``close``) is raised when the others are finished.
        """
        if self._ended:
            return []
        self._ended = True
        interrupt: BaseException | None = None
        # Those with threads first: they finish while the others do.
        steps: list[Callable[[], None]] = [partial(each.begin_end, abort) for each in self.in_turn]
        for step in [*steps, *(each.end for each in self.in_turn)]:
            try:
                step()
            except BaseException as raised:  # Ctrl-C in one's close: the others are finished all the same
                interrupt = interrupt or raised
                self.hurry()
        if interrupt is not None:
            raise interrupt
        return [error for output in self._outputs for error in output.errors]

    def _wake(self) -> None:
        for output in self._outputs:
            output.wake()

    def __iter__(self) -> Iterator[Output]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __getitem__(self, index: Any) -> Any:
        return self._outputs[index]


def told(outputs: Sequence[Output]) -> dict[str, Any]:
    """The outputs' books, for JSON: what each took, what it did not get by stream, and why it was lost."""
    return {
        output.name: {
            "written": output.written.total(),
            "dropped": {stream: count for stream, count in sorted(output.dropped.items()) if count},
            "error": redact(str(output.errors[0])) if output.errors else None,
        }
        for output in outputs
    }
