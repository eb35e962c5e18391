"""A file of some lines that a config names, and that may be a pipe: read whole, not waited for in vain."""

from __future__ import annotations

import errno
import os
import select
import time
from pathlib import Path

SECONDS = 5.0
"""How long whoever writes a pipe (``<(pass show cam)`` in a shell) may say nothing."""


def read(path: str | Path, most: int) -> bytes:
    """The content of ``path``, up to ``most`` bytes and one more. Raises OSError.

    A pipe that nobody writes has no content; one that is written by somebody who falls silent is an OSError.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    data, until = b"", time.monotonic() + SECONDS
    with open(os.open(Path(path).expanduser(), flags), "rb", buffering=0) as file:
        while len(data) <= most:
            piece = file.read(most + 1 - len(data))
            if piece is None:
                left = max(0.0, until - time.monotonic())
                if not select.select([file], [], [], left)[0]:
                    raise OSError(errno.ETIMEDOUT, f"it is a pipe, and nothing comes of it in {SECONDS:g} s")
            elif piece:
                data += piece
                until = time.monotonic() + SECONDS
            else:
                break
    return data
