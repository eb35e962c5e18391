"""How old what is emitted may be."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def too_old(max_age_ms: float | None) -> Callable[[Any], str | None] | None:
    """For :class:`pipeline.flow.Flow`: whether an item's frame is older than that. None: nothing is asked."""
    if max_age_ms is None:
        return None
    most_seconds, now = max_age_ms / 1000, time.monotonic

    def expired(item: Any) -> str | None:
        return "too_old" if now() - item.frame.captured_at > most_seconds else None

    return expired
