"""Threads that wait until others have had their time on a core, where all that counts is how much is done."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


class Patience:
    """Of the thread that makes one: as it wakes up it interrupts no other, or (at first) may.

    Linux's SCHED_BATCH (``sched(7)``): a hand-over wakes a thread that needs a core for a moment, for which
    another would be interrupted in the middle of a run of inference. Elsewhere this does nothing; nor does it
    where the process was given another policy, which is somebody's choice.
    """

    def __init__(self) -> None:
        self.holds = False
        self._ours = sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER

    def set(self, holds: bool) -> None:
        """By the thread itself."""
        self.holds = holds
        if sys.platform == "linux" and self._ours:
            # Some sandboxes know no policy but the usual one. It goes on as it is then, a per cent slower.
            with suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_BATCH if holds else os.SCHED_OTHER, os.sched_param(0))
