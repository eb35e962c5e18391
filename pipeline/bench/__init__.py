"""How fast the line is here, what bounds it, and how close it comes: ``framerail bench`` and ``plan``."""

from pipeline.bench.alone import Cost, alone
from pipeline.bench.bound import Bound, bounds
from pipeline.bench.machine import machine
from pipeline.bench.point import measure
from pipeline.bench.steady import Settings

__all__ = ["Bound", "Cost", "Settings", "alone", "bounds", "machine", "measure"]
