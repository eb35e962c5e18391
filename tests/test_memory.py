"""What the process takes from the system: one of glibc's arenas, pages that stay, huge ones for models."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.memory import in_huge_pages

glibc = pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="needs glibc"
)

# Eight threads allocate at the same time; glibc itself then says in how many arenas.
PROGRAM = """
import ctypes, sys, threading
from pipeline.memory import set_malloc

set_malloc()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
together = threading.Barrier(8)

def allocate():
    together.wait()
    for _ in range(100):
        libc.malloc(ctypes.c_size_t(1000))
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
"""


@glibc
@pytest.mark.parametrize(("environment", "one"), [({}, True), ({"MALLOC_ARENA_MAX": "16"}, False)])
def test_threads_share_an_arena_unless_the_user_says_otherwise(tmp_path, environment, one):
    told = tmp_path / "malloc.xml"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    subprocess.run([sys.executable, "-c", PROGRAM, str(told)], env=clean | environment, check=True)
    arenas = told.read_text().count("<heap nr=")
    assert (arenas == 1) is one


# A thread takes and fills what a picture in Full HD takes, and lets it go, again and again; its page
# faults are told. By itself glibc makes and unmakes a heap for each, of 1,500 pages, where the one of the
# thread's other things has no room left.
PICTURES = """
import ctypes, resource, threading
from pipeline.memory import set_malloc

set_malloc()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def pictures(count):
    for _ in range(count):
        block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(1920 * 1080 * 3)))
        ctypes.memset(block, 1, 1920 * 1080 * 3)
        libc.free(block)

def work():
    for _ in range(610):  # what fills a heap of 64 MB but for a rest that is too small for a picture
        libc.malloc(ctypes.c_size_t(100_000))
    pictures(3)
    before = faults()
    pictures(100)
    print((faults() - before) / 100)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@glibc
def test_the_memory_of_one_picture_serves_for_the_next():
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    said = subprocess.run(
        [sys.executable, "-c", PICTURES], env=clean, check=True, capture_output=True, text=True
    )
    assert float(said.stdout) < 100


# Many blocks of 100 kB, and after each a small one that stays: what is free then lies between these.
SCATTERED = """
import ctypes, sys
from pathlib import Path
from pipeline.memory import give_back

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
blocks = []
for _ in range(1000):
    blocks.append(libc.malloc(ctypes.c_size_t(100_000)))
    ctypes.memset(blocks[-1], 1, 100_000)
    libc.malloc(ctypes.c_size_t(100))
for block in blocks:
    libc.free(ctypes.c_void_p(block))

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

before = megabytes()
give_back()
print(before - megabytes())
"""


@glibc
def test_what_is_free_between_other_things_goes_back_to_the_system():
    said = subprocess.run([sys.executable, "-c", SCATTERED], check=True, capture_output=True, text=True)
    assert float(said.stdout) > 60


def _huge_megabytes() -> float:
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    found = re.search(r"AnonHugePages:\s+(\d+) kB", rollup)
    assert found is not None
    return int(found[1]) / 1e3


def _filled(megabytes: int) -> mmap.mmap:
    """Memory in small pages, each written to."""
    memory = mmap.mmap(-1, megabytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory.write(bytes(megabytes << 20))
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _needs_huge_pages() -> None:
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if release < (6, 1) or not enabled.exists() or "[never]" in enabled.read_text(encoding="ascii"):
        pytest.skip("this system gives no huge pages on request")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_what_a_block_takes_lies_in_huge_pages_and_nothing_else_is_moved():
    _needs_huge_pages()
    other = _filled(64)
    before = _huge_megabytes()
    with in_huge_pages():
        taken = _filled(64)
        taken[12345] = 7
        assert _huge_megabytes() - before < 16
    assert _huge_megabytes() - before == pytest.approx(64, abs=16)
    assert taken[12345] == 7
    assert len(taken) == len(other)


MODEL = """
from pathlib import Path
from pipeline.runtime.model import open_model

model = open_model("nanodet-g", "cpu", runs=2)
print(Path("/proc/self/smaps_rollup").read_text().split("AnonHugePages:")[1].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_model_lies_in_huge_pages():
    _needs_huge_pages()
    said = subprocess.run([sys.executable, "-c", MODEL], check=True, capture_output=True, text=True)
    assert int(said.stdout) / 1e3 > 20
