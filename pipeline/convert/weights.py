"""Darknet's weights files: a short header, then the float32 of one layer after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.convert.cfg import Section
from pipeline.errors import ModelError

Weights = NDArray[np.float32]
# What is not trained alone: Debian's CPU build divides by sqrt(variance) + 1e-6 (blas.c, normalize_cpu).
_EPSILON = 1e-6


@dataclass(slots=True)
class WeightsFile:
    """The values of a weights file, taken in the order in which they stand there.

    ``version`` is (major, minor, revision), ``seen`` the pictures it was trained on. ``transposed``:
    matrices of connected layers are stored [inputs, outputs], as files of versions above 1000 do.
    """

    path: Path
    version: tuple[int, int, int]
    seen: int
    values: Weights
    taken: int = 0

    @staticmethod
    def read(path: Path) -> WeightsFile:
        """Read a file. Raises ModelError for one that cannot be read, or ends within its header.

        After ``load_weights_upto`` of Darknet's parser.c: int32 major, minor, revision; then the
        count of pictures, 64 bits from version 0.2 on, 32 before it and for versions above 1000.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read weights {path}: {error.strerror}") from None
        header = np.frombuffer(data[:12], "<i4") if len(data) >= 12 else np.zeros(0, np.int32)
        wide = len(header) == 3 and _counts_in_64_bits(int(header[0]), int(header[1]))
        size = 20 if wide else 16
        if len(data) < size:
            raise ModelError(
                f"weights {path.name}: expected a header of {size} bytes; the file has {len(data)}: "
                "it is truncated, or no Darknet weights"
            )
        if (len(data) - size) % 4:
            raise ModelError(
                f"weights {path.name}: expected whole float32 values behind the header of {size} bytes; "
                f"{(len(data) - size) % 4} bytes are over: it is truncated, or no Darknet weights"
            )
        seen = int.from_bytes(data[12:size], "little")
        values = np.frombuffer(data, "<f4", offset=size)
        return WeightsFile(path, (int(header[0]), int(header[1]), int(header[2])), seen, values)

    @property
    def transposed(self) -> bool:
        """Whether connected layers are stored with their inputs first."""
        return self.version[0] > 1000 or self.version[1] > 1000

    def take(self, layer: Section, what: str, *shape: int) -> Weights:
        """Return the next values, of that shape. Raises ModelError where the file has not as many."""
        count = math.prod(shape)
        left = len(self.values) - self.taken
        if count > left:
            raise ModelError(
                f"weights {self.path.name} end in {layer}: expected {count:,} values for its {what}, "
                f"got {left:,}: the file is truncated, or belongs to another cfg"
            )
        part = self.values[self.taken : self.taken + count].reshape(shape)
        self.taken += count
        if not np.isfinite(part).all():
            raise ModelError(
                f"weights {self.path.name}: {layer}: its {what} are not all finite numbers: "
                "the file is damaged, or belongs to another cfg"
            )
        return part

    def take_norm(self, layer: Section, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return factor and mean, [count] each, of a batch normalisation: (x - mean) · factor."""
        scale = self.take(layer, "scales", count).astype(np.float64)
        mean = self.take(layer, "means", count).astype(np.float64)
        variance = self.take(layer, "variances", count).astype(np.float64)
        if variance.min() < 0:
            raise ModelError(
                f"weights {self.path.name}: {layer}: its variances reach {variance.min():.3g}; "
                "expected none below 0: the file belongs to another cfg"
            )
        return scale / (np.sqrt(variance) + _EPSILON), mean

    def finish(self, layers: int) -> None:
        """Raise ModelError where the layers have left values over."""
        surplus = len(self.values) - self.taken
        if surplus:
            raise ModelError(
                f"weights {self.path.name} hold {len(self.values):,} values; its cfg's {layers} layers take "
                f"{self.taken:,}, so {surplus:,} are over: the file belongs to another cfg"
            )


def _counts_in_64_bits(major: int, minor: int) -> bool:
    return major * 10 + minor >= 2 and major < 1000 and minor < 1000
