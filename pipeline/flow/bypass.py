"""A way round a slow stage for the items that do not need it, with the order of each stream kept.

::

    ─▶ entrance ─┬───────────── out ─────────────┬─▶
                 └─▶ lane ─▶ slow stage ─▶ exit ─┘

An item takes the lane if it needs the stage, or if an earlier item of its stream is still in
there; such a one leaves with that, without a turn of its own. One thread puts into the entrance, one
into the exit.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from pipeline.flow.channel import Channel


class Bypass:
    """Both targets: ``entrance`` for the stage before, ``exit`` for the slow stage itself.

    ``stream_of`` tells an item's stream, ``needs`` whether the slow stage has work with it;
    ``lanes`` lead there, one per stream; ``out`` is closed when both targets are.
    """

    def __init__(
        self,
        stream_of: Callable[[Any], str],
        needs: Callable[[Any], bool],
        lanes: Mapping[str, Channel[Any]],
        out: Channel[Any],
    ) -> None:
        self.entrance = _Entrance(self)
        self.exit = _Exit(self)
        self._stream_of = stream_of
        self._needs = needs
        self._lanes = lanes
        self._out = out
        self._inside: Counter[str] = Counter()
        self._open = 2
        self._lock = threading.Lock()

    def _way(self, item: Any) -> Channel[Any]:
        stream = self._stream_of(item)
        with self._lock:
            inside = self._inside[stream] > 0 or self._needs(item)
            self._inside[stream] += inside
        return self._lanes[stream] if inside else self._out

    def _leave(self, items: Sequence[Any]) -> Sequence[Any]:
        # What has only waited for an earlier one of its stream needs no turn of its own.
        after = {self._stream_of(item): None for item in items}
        items = list(items)
        for stream in after:
            items += self._lanes[stream].take_while(lambda item: not self._needs(item))
        refused = self._out.put_all(items)
        with self._lock:  # only now may what follows go past
            self._inside.subtract(self._stream_of(item) for item in items)
        return refused

    def _forgo(self, items: Sequence[Any]) -> None:
        with self._lock:
            self._inside.subtract(self._stream_of(item) for item in items)

    def _close(self) -> None:
        with self._lock:
            self._open -= 1
            last = self._open == 0
        if last:
            self._out.close()


class _Entrance:
    def __init__(self, bypass: Bypass) -> None:
        self._bypass = bypass

    def put_all(self, items: Sequence[Any]) -> Sequence[Any]:
        """As :meth:`Channel.put_all`."""
        refused: list[Any] = []
        # Together what goes the same way: a put costs more than an item in it.
        for way, group in groupby(items, self._bypass._way):
            refused += way.put_all(list(group))
        return refused

    def forgo(self, items: Sequence[Any]) -> None:
        """What never came in is not inside."""

    def close(self) -> None:
        """No more items will come."""
        for lane in list(self._bypass._lanes.values()):  # a stream may just be added
            lane.close()
        self._bypass._close()


class _Exit:
    def __init__(self, bypass: Bypass) -> None:
        self._bypass = bypass

    def put_all(self, items: Sequence[Any]) -> Sequence[Any]:
        """As :meth:`Channel.put_all`."""
        return self._bypass._leave(items)

    def forgo(self, items: Sequence[Any]) -> None:
        """The slow stage gave ``items`` up: what follows them need not wait."""
        self._bypass._forgo(items)

    def close(self) -> None:
        """The slow stage has ended."""
        self._bypass._close()
