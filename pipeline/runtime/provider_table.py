"""The execution providers by the names that users type: what each needs, and the options it starts with.

Options are ONNX Runtime's own, as text. What a config gives (``provider_options``) wins over what
stands here; what the running session then says of itself is what is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.engines import engine_folder

CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Placement:
    """What is to run where; what a provider's options may depend on.

    ``model`` is the file, or its content where the graph was edited. ``shape`` says what the input is fed,
    where the file leaves that open: an engine that was built for another is of no use.
    """

    model: Path | bytes | None = None
    device: int = 0
    shape: str = ""


def _no_options(_where: Placement) -> dict[str, str]:
    return {}


def _device_id(where: Placement) -> dict[str, str]:
    return {"device_id": str(where.device)}


def _cuda(where: Placement) -> dict[str, str]:
    # kSameAsRequested: the arena grows by what is asked for, not to the next power of two.
    # One stream: else each thread that runs the session has one, and an arena's worth, of its own.
    return {
        "device_id": str(where.device),
        "arena_extend_strategy": "kSameAsRequested",
        "use_ep_level_unified_stream": "1",
    }


def _tensorrt(where: Placement) -> dict[str, str]:
    # Without a cache, each start builds the engine again, for minutes.
    if where.model is None:
        return _device_id(where)
    folder = str(engine_folder(where.model, where.shape, where.device))
    return {
        "device_id": str(where.device),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider by the name that users type."""

    name: str
    ort_name: str
    remedy: str
    """What to install or have, as the end of a sentence."""
    options: Callable[[Placement], dict[str, str]] = _no_options
    """The options that it starts with."""
    plugin: str | None = None
    """A Python package that carries it as a plugin library with ``get_library_path()``."""

    memory: str | None = None
    """ONNX Runtime's word for the memory that I/O binding puts buffers in; None: no I/O binding."""
    graphs: str = ""
    """The option that turns CUDA graphs on."""

    @property
    def takes_device(self) -> bool:
        """Whether its options tell it a device."""
        return self.options is not _no_options


PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider("cpu", CPU, "reinstall onnxruntime"),
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            "install framerail[gpu] (onnxruntime-gpu) and NVIDIA's driver, CUDA and cuDNN",
            _cuda,
            memory="cuda",
            graphs="enable_cuda_graph",
        ),
        Provider(
            "tensorrt",
            "TensorrtExecutionProvider",
            "install framerail[gpu] (onnxruntime-gpu) and TensorRT beside CUDA",
            _tensorrt,
            memory="cuda",
            graphs="trt_cuda_graph_enable",
        ),
        Provider(
            "openvino",
            "OpenVINOExecutionProvider",
            "pip install onnxruntime-ep-openvino (Intel processors and graphics)",
            plugin="onnxruntime_ep_openvino",
        ),
        Provider("coreml", "CoreMLExecutionProvider", "use macOS, where onnxruntime has it built in"),
        Provider("directml", "DmlExecutionProvider", "install onnxruntime-directml (Windows)", _device_id),
        Provider(
            "migraphx", "MIGraphXExecutionProvider", "install onnxruntime-migraphx (AMD GPUs)", _device_id
        ),
        Provider("rocm", "ROCMExecutionProvider", "install onnxruntime-rocm (AMD GPUs)", _device_id),
        Provider(
            "qnn",
            "QNNExecutionProvider",
            "install onnxruntime-qnn (Qualcomm processors)",
            plugin="onnxruntime_qnn",
        ),
        Provider("xnnpack", "XnnpackExecutionProvider", "use a build of onnxruntime with XNNPACK"),
        Provider("webgpu", "WebGpuExecutionProvider", "use a build of onnxruntime with WebGPU"),
    )
}

# TensorRT is left out: it builds an engine for minutes at the first start, which nobody asked for.
AUTO_ORDER = ("cuda", "migraphx", "rocm", "coreml", "directml", "openvino", "cpu")
