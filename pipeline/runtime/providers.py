"""Execution providers: their names, what they need, and proof that they run.

ONNX Runtime only warns when a provider is missing, misspelt or cannot start, and then gives a
CPU session. So nothing here trusts a request: a session counts as running on a provider when
ONNX Runtime's own assignment of graph nodes says so.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from pipeline.errors import ProviderError

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"


def _device_id(device: int) -> dict[str, str]:
    return {"device_id": str(device)}


def _no_options(_device: int) -> dict[str, str]:
    return {}


def _cuda(device: int) -> dict[str, str]:
    # kSameAsRequested: the arena grows by what is asked for, not to the next power of two.
    return {"device_id": str(device), "arena_extend_strategy": "kSameAsRequested"}


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider by the name that users type."""

    name: str
    ort_name: str
    remedy: str
    """What to install or have, as the end of a sentence."""
    options: Callable[[int], dict[str, str]] = _no_options
    """Provider options for a device index."""
    plugin: str | None = None
    """A Python package that carries it as a plugin library with ``get_library_path()``."""

    @property
    def has_devices(self) -> bool:
        """Whether a device index means anything to it."""
        return self.options is not _no_options or self.plugin is not None


PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider("cpu", CPU, "reinstall onnxruntime"),
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            "install framerail[gpu] (onnxruntime-gpu) and NVIDIA's driver, CUDA and cuDNN",
            _cuda,
        ),
        Provider(
            "tensorrt",
            "TensorrtExecutionProvider",
            "install framerail[gpu] (onnxruntime-gpu) and TensorRT beside CUDA",
            _device_id,
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

_registration = threading.Lock()
_registered: set[str] = set()


def compiled_in() -> list[str]:
    """Names of the providers that this build lists; listed does not mean that they can load."""
    available = set(ort.get_available_providers())
    return [name for name, provider in PROVIDERS.items() if provider.ort_name in available]


def plugged_in() -> list[str]:
    """Names of the providers whose plugin package is installed."""
    return [
        name
        for name, provider in PROVIDERS.items()
        if provider.plugin is not None and importlib.util.find_spec(provider.plugin) is not None
    ]


def on_offer() -> list[str]:
    """Names worth trying, in the order of ``auto``, then the rest."""
    have = {*compiled_in(), *plugged_in()}
    return [*(name for name in AUTO_ORDER if name in have), *sorted(have - set(AUTO_ORDER))]


def create_session(
    model: str | bytes, name: str, device: int, options: ort.SessionOptions
) -> tuple[ort.InferenceSession, dict[str, int]]:
    """A session on provider ``name`` for a file or its contents; and how many nodes each provider got.

    Nodes that the provider cannot take fall to the CPU, and the counts say so; that none at all
    runs on it is a ProviderError, as is a provider that is not there or cannot start. Errors of
    the model itself come through as ONNX Runtime raised them.
    """
    provider = PROVIDERS[name]
    if name not in (have := on_offer()):
        raise ProviderError(
            f"provider {name!r} cannot be had: this build (onnxruntime {ort.__version__}) has: "
            f"{', '.join(have)}; to have it, {provider.remedy}"
        )
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider.ort_name == CPU:
        session = ort.InferenceSession(model, options, providers=[CPU], enable_fallback=0)
    else:
        session = _accelerated(model, provider, device, options)
    nodes = _assignment(session)
    # A graph that folds to constants has no nodes at all; the CPU may have that.
    proven = nodes.get(provider.ort_name) or (provider.ort_name == CPU and not nodes)
    if provider.ort_name not in session.get_providers() or not proven:
        shown = ", ".join(f"{count} on {where}" for where, count in nodes.items()) or "none anywhere"
        raise ProviderError(
            f"provider {name!r} was asked for, but ONNX Runtime put no node of the model on it ({shown}); "
            f"{provider.remedy}, or use --provider auto"
        )
    return session, nodes


def _accelerated(
    model: str | bytes, provider: Provider, device: int, options: ort.SessionOptions
) -> ort.InferenceSession:
    try:
        if provider.ort_name in ort.get_available_providers() and provider.name not in _registered:
            if provider.name in ("cuda", "tensorrt"):
                _preload_cuda()
            return ort.InferenceSession(
                model,
                options,
                providers=[(provider.ort_name, provider.options(device)), CPU],
                enable_fallback=0,
            )
        options.add_provider_for_devices([_plugin_device(provider, device)], {})
        return ort.InferenceSession(model, options)
    except ProviderError:
        raise
    except Exception as error:
        raise ProviderError(
            f"provider {provider.name!r} (device {device}) could not start: {error}; {provider.remedy}, "
            "or use --provider auto"
        ) from None


def _preload_cuda() -> None:
    """Load CUDA and cuDNN from where pip installs them, if they are there; the system's are found anyway.

    Prints what it cannot find; standard output is for data.
    """
    with contextlib.redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls(directory="")
    if said.getvalue():
        log.debug("preloading CUDA: %s", " ".join(said.getvalue().split()))


def _plugin_device(provider: Provider, device: int) -> Any:
    """Register the provider's plugin library once a process; return its ``device``-th device."""
    assert provider.plugin is not None
    with _registration:
        if provider.name not in _registered:
            library = importlib.import_module(provider.plugin).get_library_path()
            ort.register_execution_provider_library(provider.name, library)
            _registered.add(provider.name)
    devices = [entry for entry in ort.get_ep_devices() if entry.ep_name == provider.ort_name]
    if device >= len(devices):
        raise ProviderError(
            f"provider {provider.name!r} has no device {device}: it offers {len(devices)} on this machine"
        )
    return devices[device]


def _assignment(session: ort.InferenceSession) -> dict[str, int]:
    """Graph nodes per provider, as ONNX Runtime assigned them."""
    nodes: Counter[str] = Counter()
    for subgraph in session.get_provider_graph_assignment_info():
        nodes[subgraph.ep_name] += len(subgraph.get_nodes())
    return dict(nodes)
