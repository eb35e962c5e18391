"""The families that the project knows. A new one is a module beside this one and a line here."""

from __future__ import annotations

from pipeline.decoders import nanodet, yolov8, yolox
from pipeline.decoders.family import Family

DECODERS: dict[str, Family] = {
    family.name: family for family in (nanodet.FAMILY, yolox.FAMILY, yolov8.FAMILY)
}
