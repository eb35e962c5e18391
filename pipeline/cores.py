"""How many of the machine's cores are there to be used."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: its affinity, and a container's CPU quota where there is one."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        cores = os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no cgroup v2 here
        return cores
    if quota != "max":
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores
