"""The families that the project knows. A new one is a module beside this one and a line here."""

from __future__ import annotations

from pipeline.decoders import classifier, nanodet, yolov8, yolov8_obb, yolov8_pose, yolov8_seg, yolox
from pipeline.decoders.family import Family

DECODERS: dict[str, Family] = {
    family.name: family
    for family in (
        classifier.FAMILY,
        classifier.HALF,
        classifier.UNIT,
        nanodet.FAMILY,
        yolox.FAMILY,
        yolov8.FAMILY,
        yolov8_obb.FAMILY,
        yolov8_pose.FAMILY,
        yolov8_seg.FAMILY,
    )
}
