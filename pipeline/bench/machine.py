"""What was measured on: without it a figure means nothing."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import dependencies
from pipeline.cores import usable_cores
from pipeline.doctor import examine
from pipeline.runtime.engines import UNKNOWN, driver_version, gpus, tensorrt_version


def machine() -> dict[str, Any]:
    """Date (UTC), processor, cores that this process may use, CUDA's GPUs, and the versions of what does the
    work: packages, and CUDA (the driver's) and TensorRT where they are.
    """
    report = examine()
    versions = {"framerail": report["framerail"], "python": report["python"]}
    for group in ("runtimes", "opencv"):
        versions |= report[group]
    versions |= {name: report["packages"][name] for name in ("numpy", "av")}
    versions |= dependencies.installed(dependencies.PLUGINS)
    libraries = {"CUDA": driver_version(), "TensorRT": tensorrt_version()}
    versions |= {name: version for name, version in libraries.items() if version != UNKNOWN}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": report["cpu"]["model"],
        "cores": usable_cores(),
        "gpus": gpus(),
        "platform": report["platform"],
        "versions": versions,
    }


def busy_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """CPU seconds that anybody used, since boot, of the cores that this process may use.

    Time that a hypervisor gave to another machine (steal) counts as used. None where the system does
    not tell (it does on Linux).
    """
    try:
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = stat.read_text(encoding="ascii").splitlines()
    except (AttributeError, OSError):
        return None
    total = 0
    for line in lines:
        name, *ticks = line.split()
        if name in mine:
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, ticks[:8])
            total += user + nice + system + irq + softirq + steal
    return total / os.sysconf("SC_CLK_TCK")


def resident_bytes() -> int:
    """Memory that this process has in use now; 0 where the system does not tell (it does on Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
