"""Only so many items of one stream in the line: what a slow stream has under way holds up no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.flow.channel import Channel
from pipeline.flow.flow import Observer


class Windowed:
    """An observer that gives a place in its stream's window back when an item ends, then tells another.

    ``firsts`` are the members of the entrance's merge, by stream; what is dropped in stage
    ``entrance`` was never taken from them.
    """

    def __init__(
        self,
        observer: Observer,
        entrance: str,
        stream_of: Callable[[Any], str],
        firsts: Mapping[str, Channel[Any]],
    ) -> None:
        self.fed = observer.fed
        self.served = observer.served
        self.retired = observer.retired
        self._observer = observer
        self._entrance = entrance
        self._stream_of = stream_of
        self._firsts = firsts

    def dropped(self, stage: str, item: Any, reason: str) -> None:
        """``item`` left the flow unfinished."""
        if stage != self._entrance:
            self._release(item)
        self._observer.dropped(stage, item, reason)

    def emitted(self, stage: str, item: Any) -> None:
        """``item`` left the flow finished."""
        self._release(item)
        self._observer.emitted(stage, item)

    def _release(self, item: Any) -> None:
        # Before the books hear of it: once none is in flight there, a stream may get another channel.
        self._firsts[self._stream_of(item)].release()
