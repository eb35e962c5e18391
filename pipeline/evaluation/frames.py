"""The frames of one source, as ``run`` captures them, and what became of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import cast

from pipeline.accounts import StreamAccount
from pipeline.config import StreamConfig
from pipeline.errors import SourceError
from pipeline.flow import Dropped
from pipeline.frame import Frame
from pipeline.sources import Source, SourceSpec, open_source
from pipeline.stages.capture import Capture


class Frames:
    """Iterating opens the source and yields at most ``limit`` frames, in the order of the source.

    ``unreadable`` then holds the numbers (``Frame.seq``) of pictures that could not be read, and ``error``
    what ended the source before its time; the log has said both.
    """

    def __init__(
        self,
        spec: SourceSpec,
        stream: StreamConfig,
        name: str,
        limit: int | None = None,
        open_source: Callable[..., Source] = open_source,
    ) -> None:
        self._account = StreamAccount(name)
        self._capture = Capture(spec, stream, self._account, open_source)
        self._limit = limit
        self.unreadable: list[int] = []

    @property
    def error(self) -> SourceError | None:
        """Why the source ended before its time."""
        return cast("SourceError | None", self._account.error)

    def __iter__(self) -> Iterator[Frame]:
        taken = 0
        with closing(self._capture()) as captured:
            for item in captured:
                if not isinstance(item, Dropped):
                    yield item
                    taken += 1
                    if taken == self._limit:
                        return
                elif item.reason == "unreadable":
                    self.unreadable.append(item.item.seq)
