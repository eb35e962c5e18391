"""One verified ONNX Runtime session: opened on the provider that it says, warmed up, safe to share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pipeline.decoders import TensorInfo
from pipeline.decoders.contract import extra_feeds, image_input
from pipeline.errors import ConfigError, ModelError, ProviderError
from pipeline.runtime.binding import Binding, Bound, Graphs, Memory, Runner, batch_sizes, without_graph
from pipeline.runtime.demands import weights_beside
from pipeline.runtime.faults import is_provider_fault
from pipeline.runtime.fusion import Fusion
from pipeline.runtime.provider_table import PROVIDERS
from pipeline.runtime.providers import has_devices, on_offer, options_of
from pipeline.runtime.start import ProviderOptions, create, open_session
from pipeline.vision.letterbox import InputSpec

log = logging.getLogger(__name__)

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
}


def runtime_version() -> str:
    """ONNX Runtime's."""
    return str(ort.__version__)


def concurrency(
    cores: int, workers: int | None, threads: int | None, cameras: int | None = None
) -> tuple[int, int]:
    """Concurrent runs × intra-op threads for the CPU. ``cameras``: streams, where all of them are live.

    Two runs on one thread each beat one run on two threads: 19.8-21.1 against 22-28 ms a frame
    (YOLOv8n at 640, two cores), because a run's serial parts leave its second thread idle. More
    than eight runs at once cost memory and latency for little.

    Of a live stream the newest frame alone matters: more runs than streams make nothing fresher, and a run
    is over sooner the more threads it has. So cameras get a run each, or as many more as it takes to leave no
    core over; and two at least, since a single one falls behind sooner (docs/performance.md, "Live").
    """
    if workers is None:
        most = max(1, min(8, cores // (threads or 1)))
        least = most if cameras is None or threads is not None else min(max(cameras, 2), most)
        workers = max(range(least, most + 1), key=lambda runs: (runs * (cores // runs), -runs))
    return workers, threads or max(1, cores // workers)


class Session:
    """A model file on one provider.

    ``active`` is the provider that really runs (ONNX Runtime's name), ``nodes`` how many graph
    nodes each provider has. ``run`` may be called from several threads at once.

    Raises ConfigError for an unknown provider name, ProviderError when an explicit provider
    cannot be had, ModelError when the file cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        provider: str = "auto",
        device: int = 0,
        threads: int = 1,
        options: ProviderOptions | None = None,
        shape: str = "",
        spinning: bool = False,
        rewrite: bool = True,
        fusion: Fusion | None = None,
    ) -> None:
        """``options`` is what each provider is given; ``shape`` what is fed where the file leaves it open;
        ``spinning``: idle threads of a run wait busily for the next; ``rewrite``: the CPU may be given the
        graph in a form that computes the same faster; ``fusion``: the graph is given what this says of
        preprocessing, and takes bytes, [B, H, W, 3]."""
        if provider != "auto" and provider not in PROVIDERS:
            raise ConfigError(f"unknown provider {provider!r}; this build has: {', '.join(on_offer())}")
        self.path = path
        self.requested = provider
        self.device = device
        start = partial(
            create,
            path,
            device=device,
            threads=threads,
            options=options or {},
            shape=shape,
            spinning=spinning,
            rewrite=rewrite,
            fusion=fusion,
        )
        self._session, self.nodes, self.provider = open_session(provider, start)
        self.options = options_of(self._session, self.provider)
        """The provider's options, as the running session gives them."""
        self.active = PROVIDERS[self.provider].ort_name
        if self.options.get("device_id", str(device)) != str(device):
            raise ProviderError(
                f"provider {self.provider!r} was asked for device {device} and runs on "
                f"{self.options['device_id']}; compare the devices of framerail doctor"
            )
        if device and not has_devices(self.provider):
            log.warning(
                "provider %s has no devices to choose from: device %d is ignored", self.provider, device
            )
            self.device = 0
        self.inputs = [_info(tensor) for tensor in self._session.get_inputs()]
        self.outputs = [_info(tensor) for tensor in self._session.get_outputs()]
        meta = self._session.get_modelmeta()
        self.metadata: dict[str, str] = dict(meta.custom_metadata_map)
        self._output_names = [tensor.name for tensor in self.outputs]
        image = image_input(self.inputs)
        self._input_name = image.name if image is not None else ""
        self._without_batch = image is not None and len(image.shape) == 3
        self.batch = 1 if self._without_batch else image.shape[0] if image is not None else None
        """Pictures that each run takes, where the file fixes it."""
        self._beside: dict[str, NDArray[Any]] = {}
        inputs = self._session.get_inputs()
        batch = next((tensor.shape[0] for tensor in inputs if tensor.name == self._input_name), None)
        self._fixed = {each.name: _is_fixed(each.shape, batch) for each in self._session.get_outputs()}
        self._graphs = self._with_graphs()
        # A graph would be replayed over the addresses of another run's arrays.
        self._plain = without_graph() if self._graphs is not None else None

    @property
    def files(self) -> list[str]:
        """The model's file, and those beside it that hold its weights."""
        try:
            beside = weights_beside(self.path)
        except (
            OSError,
            ValueError,
            ModelError,
        ):  # moved away since, or being copied
            beside = []
        return [str(self.path), *map(str, beside)]

    def feed_size(self, input_hw: tuple[int, int]) -> None:
        """Set what the inputs beside the picture get, for pictures of this height and width."""
        self._beside = extra_feeds(self.inputs, input_hw)

    @property
    def picture(self) -> str:
        """Name of the input that takes the picture."""
        return self._input_name

    def feeds(self, blob: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """All inputs by name for ``blob`` ([B, 3, H, W]), filled up where the file fixes the batch."""
        count = len(blob)
        feeds = {self._input_name: blob[0] if self._without_batch else blob}
        size = self.batch or count
        if count < size:
            feeds[self._input_name] = np.concatenate([blob, np.repeat(blob[-1:], size - count, axis=0)])
        for name, value in self._beside.items():
            feeds[name] = np.repeat(value, size, axis=0)
        return feeds

    def run(self, *blobs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        """Run on ``blobs`` ([B, 3, H, W] each, of one shape) together; the raw outputs in the model's order.
        Releases the GIL.

        Where the file fixes the batch, the rest of it is filled up, and left out of the outputs.
        """
        blob = blobs[0] if len(blobs) == 1 else np.concatenate(blobs)
        count = len(blob)
        outputs: Sequence[NDArray[Any]] = self._session.run(self._output_names, self.feeds(blob), self._plain)
        return outputs if count == (self.batch or count) else [output[:count] for output in outputs]

    def bound(self, limit: int, spec: InputSpec) -> Runner:
        """What one worker runs on batches of up to ``limit`` blobs: buffers of its own on the device.

        On the CPU, which uses arrays where they lie, that is the session itself. Raises ProviderError where
        the provider fails at making them ready.
        """
        kind = PROVIDERS[self.provider].memory
        if kind is None:
            return self
        bound = Bound(
            self._session,
            Memory(kind, self.device),
            self._input_name,
            self._fixed,
            self._beside,
            self._without_batch,
            self._graphs,
        )
        binding = Binding(bound, batch_sizes(limit) if self.batch is None else (self.batch,))
        try:
            binding.prepare(spec.blob_shape[1:], spec.dtype)
        except Exception as error:
            if not is_provider_fault(error):
                raise
            raise ProviderError(
                f"provider {self.provider!r} (device {self.device}) could not make ready for runs of "
                f"{self.path.name}, of up to {limit} frames: {error}; where memory is short, end what else "
                "uses it, take a smaller model or batch, or use --provider cpu"
            ) from None
        return binding

    def _with_graphs(self) -> Graphs | None:
        """CUDA graphs, where the running session says that they are on. Raises ProviderError."""
        option = PROVIDERS[self.provider].graphs
        if self.options.get(option, "0").lower() not in ("1", "true"):
            return None
        if elsewhere := {where: count for where, count in self.nodes.items() if where != self.active}:
            shown = ", ".join(f"{count} nodes are on {where}" for where, count in elsewhere.items())
            raise ProviderError(
                f"option {option}: a CUDA graph holds the whole model, but {shown}; remove the option"
            )
        return Graphs()


def _is_fixed(shape: Sequence[Any], batch: Any) -> bool:
    """Whether an output of this declared shape has one shape for each batch size.

    Its first side may be the input's ``batch``, by the same name; any other open side may be a count
    of detections.
    """
    return all(isinstance(side, int) and side > 0 for side in shape[1:]) and (
        not shape or shape[0] == batch or isinstance(shape[0], int)
    )


def _info(tensor: Any) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in tensor.shape)
    return TensorInfo(tensor.name, shape, _DTYPES.get(tensor.type, tensor.type))
