"""Slots for pictures in memory that two processes have mapped; the lowest free one is taken first.

So no more of it is in use than there are pictures under way: pages that were never written take nothing.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.sources.isolated.planes import Memory

SLOTS = 16
"""Pictures of one source that may lie in memory at once: a stream in the line, and some ahead."""
SPARE = 4
"""Slots that the parent leaves to the child: it keeps copies of what comes beyond the others."""
TAKEN = 255
"""In the place of a slot's number, to the child: a picture was taken."""
_PAGE = 4096
_OVERREAD = 64
"""Bytes that vector instructions may read beyond a picture's end."""


class Slots:
    """The child's side: it makes the memory, for pictures of up to ``most`` bytes."""

    def __init__(self, most: int) -> None:
        self.each = -(-(most + _OVERREAD) // _PAGE) * _PAGE
        self.file = os.memfd_create("framerail", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.file, SLOTS * self.each)
        # Memory that shrank under the other process would end that by a signal.
        fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._map = mmap.mmap(self.file, SLOTS * self.each)
        self.free = set(range(SLOTS))

    def memory(self, slot: int, nbytes: int) -> Memory:
        """The first bytes of a slot, uint8 [nbytes]."""
        return np.ndarray(nbytes, np.uint8, self._map, slot * self.each)

    def close(self) -> None:
        """Close the file; the memory goes with its last user."""
        os.close(self.file)


class _Lent(np.ndarray[Any, np.dtype[np.uint8]]):
    """A slot that is lent. Arrays of NumPy's own class that view it refer to it, and not past it: so it lives
    as long as anything that is made of it."""


class Lender:
    """The parent's side of one memory: lends slots, and gives them back when nothing refers to them."""

    def __init__(self, file: int, each: int, give_back: Callable[[int], None]) -> None:
        """``file`` is closed. ``give_back`` is called from any thread. Raises ValueError for other memory."""
        try:
            sealed = fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
            if not sealed or os.fstat(file).st_size != SLOTS * each:
                raise ValueError(f"expected sealed memory of {SLOTS} times {each} bytes")
            self._map = mmap.mmap(file, SLOTS * each)
        finally:
            os.close(file)
        self._each, self._give_back = each, give_back
        self._lent: set[int] = set()

    def lend(self, slot: int, nbytes: int) -> Memory:
        """The picture in a slot, uint8 [nbytes]: the slot itself, or a copy where many are lent."""
        if not (0 <= slot < SLOTS and 0 < nbytes <= self._each) or slot in self._lent:
            raise ValueError(f"expected a slot that is filled, got {slot} of {SLOTS}, {nbytes} bytes")
        lent = _Lent(nbytes, np.uint8, self._map, slot * self._each)
        if len(self._lent) >= SLOTS - SPARE:
            copy = np.array(lent, subok=False)
            self._give_back(slot)
            return copy
        self._lent.add(slot)
        # Not at exit: nobody waits for slots then.
        weakref.finalize(lent, self._returned, slot).atexit = False
        memory: Memory = lent
        return memory

    def _returned(self, slot: int) -> None:
        self._lent.discard(slot)
        self._give_back(slot)
