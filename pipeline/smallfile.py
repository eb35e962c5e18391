"""A file of some lines that a config names, and that may be a pipe: read whole, not waited for in vain."""

from __future__ import annotations

import errno
import os
import selectors
import time
from contextlib import suppress
from pathlib import Path

SECONDS = 30.0
"""How long whoever writes a pipe (``<(pass show cam)`` in a shell, which may ask for a passphrase) may say
nothing."""


def read(path: str | Path, most: int) -> bytes:
    """The content of ``path``, up to ``most`` bytes and one more. Raises OSError.

    A pipe that nobody writes has no content; one that is written by somebody who falls silent is an OSError.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name holds a null byte")
    data, until = b"", time.monotonic() + SECONDS
    with open(path, "rb", buffering=0, opener=_opened) as file:
        while len(data) <= most:
            piece = file.read(most + 1 - len(data))
            if piece is None:
                left = max(0.0, until - time.monotonic())
                with selectors.DefaultSelector() as waiting:
                    waiting.register(file, selectors.EVENT_READ)
                    if not waiting.select(left):
                        raise OSError(errno.ETIMEDOUT, f"it is a pipe, and silent for {SECONDS:g} s")
            elif piece:
                data += piece
                until = time.monotonic() + SECONDS
            else:
                break
    return data


def stamp(path: str | Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None where there is none."""
    with suppress(OSError):
        found = os.stat(path)
        return found.st_mtime_ns, found.st_size, found.st_ino
    return None


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
