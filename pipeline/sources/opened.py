"""What every source shares: iterated once, closed for certain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

from pipeline.sources.base import Missed, Picture, Unreadable


class Once(ABC):
    """A source that can be iterated once and closes itself when its pictures end.

    The pictures come from ``_pictures``, a generator; when it ends, fails or is left by the
    receiver, ``close`` runs in the thread that iterates.
    """

    frame_count: int | None = None
    declared_fps: float | None = None

    def __init__(self) -> None:
        self._begun = False
        self._corrupt_packets = 0

    @property
    def corrupt_packets(self) -> int:
        """Packets that the decoder refused and that were skipped."""
        return self._corrupt_packets

    def __iter__(self) -> Iterator[Picture | Unreadable | Missed]:
        """Yield the pictures, once. Raises RuntimeError on a second call, SourceReadError."""
        if self._begun:
            raise RuntimeError("a source can be iterated only once; open it again")
        self._begun = True
        return self._closing()

    def _closing(self) -> Iterator[Picture | Unreadable | Missed]:
        try:
            yield from self._pictures()
        finally:
            self.close()

    @abstractmethod
    def _pictures(self) -> Iterator[Picture | Unreadable | Missed]: ...

    def close(self) -> None:  # noqa: B027  (nothing to release is a valid source)
        """Release what the source holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
