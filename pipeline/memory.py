"""How the process takes memory from the system, and gives it back."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_SETTINGS = (
    ("MALLOC_ARENA_MAX", _M_ARENA_MAX, 1),
    ("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, 32 << 20),  # the most that glibc takes
    ("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, 128 << 20),
)
_MADV_COLLAPSE = 25  # mman.h of Linux
_HUGE = Path("/sys/kernel/mm/transparent_hugepage")


def set_malloc() -> None:
    """Let glibc keep pictures' memory for the next ones; to be called before there are threads.

    By itself each thread has an arena of its own, up to eight for each core, and keeps there what it
    freed, while pictures of megabytes go from thread to thread here. Further arenas are made of heaps of
    64 MB, and one that becomes empty is given to the system at once: a decoder whose picture is the only
    thing in its heap has a heap made, filled page by page and unmade for each (1,800 page faults a frame,
    6 % of YOLOv8n's rate on 1080p). What the environment says of these settings has its way; other
    systems and C libraries allocate otherwise.
    """
    for name, parameter, value in _SETTINGS:
        if name not in os.environ:
            _call("mallopt", parameter, value)


def give_back() -> None:
    """Return what is free to the system; for after a decoder has gone, whose pictures were much of it.

    By itself glibc returns only what is free at an arena's end: four 1080p streams at four times what the
    machine can do, opened again every 21 s, grew from 430 to 800 MB in five minutes.
    """
    _call("malloc_trim", 0)


@contextmanager
def in_huge_pages() -> Iterator[None]:
    """Let the memory that the block takes lie in huge pages, where the system allows them on request.

    For a model's weights and working memory, which each run walks through: with pages of 4 kB, a virtual
    machine's processor spends some 2-4 % of a run in finding where they lie. Done when the block ends
    without an error, for what is in use then, in about a millisecond for each 2 MB. Linux 6.1 and later;
    elsewhere, and where /sys/kernel/mm/transparent_hugepage/enabled is ``never``, nothing is done.
    """
    size = _huge_page()
    before = _own_memory(size) if size else set()
    yield
    for number in sorted(_own_memory(size) - before) if size else ():
        # Refused where nothing of the page is in use, or none is free: then all stays as it is.
        _call("madvise", ctypes.c_void_p(number * size), ctypes.c_size_t(size), _MADV_COLLAPSE)


def _huge_page() -> int:
    """Bytes of a huge page; 0 where there are none to be had."""
    try:
        if "[never]" in (_HUGE / "enabled").read_text(encoding="ascii"):
            return 0
        return int((_HUGE / "hpage_pmd_size").read_text(encoding="ascii"))
    except OSError:
        return 0


def _own_memory(size: int) -> set[int]:
    """Numbers of the pages of ``size`` that lie wholly in memory of no file that may be written to."""
    pages: set[int] = set()
    with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
        for line in maps:
            where, access, _, _, _, *name = line.split()
            if access == "rw-p" and (not name or name == ["[heap]"]):
                first, end = (int(address, 16) for address in where.split("-"))
                pages.update(range(-(-first // size), end // size))
    return pages


def _call(name: str, *arguments: object) -> None:
    """A function of glibc; nothing where there is none (musl, other systems)."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
