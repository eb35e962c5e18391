"""One worker's buffers on one session: pictures written in place, outputs bound (I/O binding).

A plain ``run`` with arrays allocates on the device and copies for each call. Here the input has its
place there once, and outputs of a fixed shape keep theirs. Batches are padded up to a few sizes and
cut again: each new shape would grow the arena and be tuned anew, and a CUDA graph is one recorded
sequence over fixed addresses, which has to be recorded for each.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pipeline.runtime.faults import BoundRunError
from pipeline.runtime.pinned import pinned_zeros

MOST_SHAPES = 16
"""Input shapes whose buffers are kept; the one that was used longest ago goes first."""
_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = "-1"
"""ONNX Runtime's run option for a CUDA graph's number, and the number that means none."""


class Runner(Protocol):
    """What inference needs of a session."""

    def run(self, *blobs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        """Raw outputs for ``blobs`` ([B, 3, H, W] each, of one shape) together, in the model's order."""
        ...


@dataclass(frozen=True, slots=True)
class Memory:
    """Where buffers lie, in ONNX Runtime's words: ``cuda`` and its device, or ``cpu``."""

    kind: str
    device: int = 0

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
        """Unspecified values there."""
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type, self.kind, self.device)

    def holding(self, array: NDArray[Any]) -> Any:
        """A copy of ``array`` there."""
        value = self.empty(array.shape, array.dtype)
        value.update_inplace(array)
        return value


@dataclass(slots=True)
class Graphs:
    """The CUDA graphs of one session, which all its bindings share.

    ONNX Runtime forbids two runs at once on a session that has them.
    """

    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    alone: AbstractContextManager[Any] = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class Bound:
    """What is bound of a session: names, and what is known of its outputs beforehand."""

    session: Any
    memory: Memory
    image: str
    outputs: Mapping[str, bool]
    """Whether its shape is the same for every batch of one size."""
    beside: Mapping[str, NDArray[Any]]
    """For one picture, what the inputs beside it get."""
    without_batch: bool = False
    graphs: Graphs | None = None


def without_graph() -> Any:
    """Options of a run that neither records a CUDA graph nor replays one."""
    options = ort.RunOptions()
    options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
    return options


def batch_sizes(limit: int) -> tuple[int, ...]:
    """1, 2, 4, 8, … and ``limit`` itself."""
    return (*(1 << power for power in range((limit - 1).bit_length())), limit)


class Binding:
    """Runs batches of up to ``sizes[-1]`` pictures; for one thread at a time."""

    def __init__(self, bound: Bound, sizes: Sequence[int]) -> None:
        self._bound = bound
        self._sizes = tuple(sizes)
        self._slots: OrderedDict[tuple[Any, ...], _Slot] = OrderedDict()

    def prepare(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Make the buffers for pictures of ``shape`` ([3, H, W]), of every batch size, and run once on each.

        The largest first: TensorRT's engine, and an arena, that are made for it take the others too. A
        graph is recorded later, in the thread that replays it: ONNX Runtime keeps them by thread.
        """
        for size in reversed(self._sizes):
            self.run(np.zeros((size, *shape), dtype))

    def run(self, *blobs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        """Raw outputs for ``blobs`` ([B, 3, H, W] each) together, the receiver's own, with as many rows.

        Raises BoundRunError.
        """
        try:
            return self._run(blobs)
        except RuntimeError as error:
            if type(error) is not RuntimeError:
                raise
            # The frames of the first error would keep the buffers for as long as it is looked at.
            raise BoundRunError(str(error)) from error.with_traceback(None)

    def _run(self, blobs: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        count = sum(map(len, blobs))
        shape, dtype = blobs[0].shape[1:], blobs[0].dtype
        size = next((size for size in self._sizes if size >= count), count)
        key = (size, *shape, dtype.str)
        slot = self._slots.pop(key, None) or _Slot(self._bound, (size, *shape), dtype)
        self._slots[key] = slot
        if len(self._slots) > MOST_SHAPES:
            self._slots.popitem(last=False)
        outputs = slot.run(blobs)
        return outputs if count == size else [output[:count] for output in outputs]


class _Slot:
    """The buffers for one batch size and input shape."""

    def __init__(self, bound: Bound, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._bound = bound
        self._on_host = bound.memory.kind == "cpu"
        self._staging: NDArray[Any]
        self._staging, self._pinned = (
            (np.zeros(shape, dtype), False) if self._on_host else pinned_zeros(shape, dtype)
        )
        self._input = bound.memory.empty(shape[1:] if bound.without_batch else shape, dtype)
        self._binding = bound.session.io_binding()
        self._binding.bind_ortvalue_input(bound.image, self._input)
        for name, array in bound.beside.items():
            value = bound.memory.holding(np.repeat(array, shape[0], axis=0))
            self._binding.bind_ortvalue_input(name, value)
        self._bind_outputs(list(bound.outputs))
        # A graph writes to where its recording did. An export may leave a fixed side undeclared; a size that
        # does depend on the picture is read back by the host, which CUDA refuses while it records.
        self._loose = [name for name, fixed in bound.outputs.items() if not fixed and bound.graphs is None]
        self._ran = False
        self._options = without_graph() if bound.graphs is not None else None

    def run(self, blobs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        with self._bound.graphs.alone if self._bound.graphs is not None else nullcontext():
            self._write(blobs)
            self._bound.session.run_with_iobinding(self._binding, self._options)
            # On the host ``numpy`` gives a view, which the next run would write over.
            values = self._binding.get_outputs()
            outputs = [np.array(value.numpy()) if self._on_host else value.numpy() for value in values]
            if not self._ran and self._bound.graphs is not None:
                self._options = ort.RunOptions()
                self._options.add_run_config_entry(_GRAPH_ID, str(next(self._bound.graphs.numbers)))
            self._ran = True
            # What a run has allocated stays bound: an output of another size would not fit in.
            self._bind_outputs(self._loose)
        return outputs

    def _bind_outputs(self, names: Sequence[str]) -> None:
        """Let the next run choose the place of these outputs."""
        for name in names:
            self._binding.bind_output(name, self._bound.memory.kind, self._bound.memory.device)

    def _write(self, blobs: Sequence[NDArray[Any]]) -> None:
        """Pictures to the device; rows beyond them keep what was there: their answers are cut off."""
        source, staging = blobs[0], self._staging
        if self._pinned or len(source) < len(staging):
            row = 0
            for blob in blobs:
                staging[row : row + len(blob)] = blob
                row += len(blob)
            source = staging
        elif not source.flags.c_contiguous:
            source = np.ascontiguousarray(source)
        self._input.update_inplace(source[0] if self._bound.without_batch else source)
