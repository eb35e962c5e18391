"""Raw outputs to candidates: one pure function per family, registered in one table."""

from pipeline.decoders.candidates import Candidates
from pipeline.decoders.family import Family, InputDefaults, TensorInfo
from pipeline.decoders.identify import Identification, identify
from pipeline.decoders.table import DECODERS

__all__ = [
    "DECODERS",
    "Candidates",
    "Family",
    "Identification",
    "InputDefaults",
    "TensorInfo",
    "identify",
]
