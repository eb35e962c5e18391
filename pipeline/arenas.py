"""How the process takes memory from the C library, and gives it back."""

from __future__ import annotations

import ctypes
import os
import sys

_M_ARENA_MAX = -8  # malloc.h of glibc
_ARENAS = 2


def few_arenas() -> None:
    """Let all threads allocate from two of glibc's arenas; to be called before there are threads.

    By itself each thread has one of its own, up to eight for each core, and keeps there what it freed:
    pictures of megabytes go from thread to thread here. NanoDet-g on 1080p takes 282 MB so, not 326,
    and each further stream 35 MB, not 44, in the same CPU time. MALLOC_ARENA_MAX in the environment
    has its way; other systems and C libraries allocate otherwise.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        _call("mallopt", _M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return what is free to the system; for after a decoder has gone, whose pictures were much of it.

    By itself glibc returns only what is free at an arena's end: four 1080p streams at four times what the
    machine can do, opened again every 21 s, grew from 430 to 800 MB in five minutes.
    """
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    """A function of glibc; nothing where there is none (musl, other systems)."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
