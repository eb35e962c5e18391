"""OpenCV's own warnings kept off standard error, where we report the failure ourselves."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import cv2

_log_lock = threading.Lock()
_log_users = 0
_log_level = 0


@contextlib.contextmanager
def no_opencv_log() -> Iterator[None]:
    """Silence OpenCV's log inside; threads may overlap.

    The level is the process's own, so it is put back only when the last reader leaves.
    """
    global _log_users, _log_level
    with _log_lock:
        if _log_users == 0:
            _log_level = cv2.utils.logging.getLogLevel()
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        _log_users += 1
    try:
        yield
    finally:
        with _log_lock:
            _log_users -= 1
            if _log_users == 0:
                cv2.utils.logging.setLogLevel(_log_level)
