"""The command's threads share few of glibc's arenas."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Eight threads allocate at the same time; glibc itself then says in how many arenas.
PROGRAM = """
import ctypes, sys, threading
from pipeline.arenas import few_arenas

few_arenas()
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


@pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="needs glibc"
)
@pytest.mark.parametrize(("environment", "few"), [({}, True), ({"MALLOC_ARENA_MAX": "16"}, False)])
def test_threads_share_two_arenas_unless_the_user_says_otherwise(tmp_path, environment, few):
    told = tmp_path / "malloc.xml"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    subprocess.run([sys.executable, "-c", PROGRAM, str(told)], env=clean | environment, check=True)
    arenas = told.read_text().count("<heap nr=")
    assert (arenas <= 2) is few


# Many blocks of 100 kB, and after each a small one that stays: what is free then lies between these.
SCATTERED = """
import ctypes, sys
from pathlib import Path
from pipeline.arenas import give_back

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


@pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="needs glibc"
)
def test_what_is_free_between_other_things_goes_back_to_the_system():
    said = subprocess.run([sys.executable, "-c", SCATTERED], check=True, capture_output=True, text=True)
    assert float(said.stdout) > 60
