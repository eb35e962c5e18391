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
import re
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from pipeline.errors import ProviderError
from pipeline.runtime.provider_table import AUTO_ORDER, CPU, PROVIDERS, Placement, Provider

log = logging.getLogger(__name__)


_UNKNOWN_OPTION = re.compile(r'[Uu]nknown provider option:? *[\'"]([^\'"]+)')
_UNREAD_OPTION = re.compile(r'[Ff]ailed to parse provider option "([^"]+)": *([^\n]*)')

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
    model: str | bytes,
    name: str,
    device: int,
    options: ort.SessionOptions,
    asked: Mapping[str, str] | None = None,
    shape: str = "",
) -> tuple[ort.InferenceSession, dict[str, int]]:
    """A session on provider ``name`` for a file or its contents; and how many nodes each provider got.

    ``asked`` are options of the provider, which win over those that it starts with; ``shape`` is what the
    input is fed where the file leaves it open. Nodes that the provider cannot take fall to the CPU, and
    the counts say so; that none at all runs on it is a ProviderError, as is a provider that is not there,
    cannot start or does not know an option. Errors of the model itself come through as ONNX Runtime
    raised them.
    """
    provider = PROVIDERS[name]
    if name not in (have := on_offer()):
        raise ProviderError(
            f"provider {name!r} cannot be had: this build (onnxruntime {ort.__version__}) has: "
            f"{', '.join(have)}; to have it, {provider.remedy}"
        )
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider.ort_name == CPU:
        if asked:
            # ONNX Runtime takes any and ignores it.
            raise ProviderError(
                f"provider 'cpu' has no options, so it cannot have {', '.join(asked)}; remove them "
                "(infer_workers and infer_threads say how it runs)"
            )
        session = ort.InferenceSession(model, options, providers=[CPU], enable_fallback=0)
    else:
        session = _accelerated(model, provider, device, options, asked or {}, shape)
    nodes = _assignment(session)
    # A graph that folds to constants has no nodes at all; the CPU may have that.
    proven = nodes.get(provider.ort_name) or (provider.ort_name == CPU and not nodes)
    if provider.ort_name not in session.get_providers() or not proven:
        shown = ", ".join(f"{count} on {where}" for where, count in nodes.items()) or "none anywhere"
        raise ProviderError(
            f"provider {name!r} was asked for, but ONNX Runtime put no node of the model on it ({shown}); "
            f"{provider.remedy}, or use --provider auto"
        )
    if unsaid := [key for key in asked or () if key not in options_of(session, name)]:
        log.warning(
            "provider %s does not say whether it took the option %s", name, ", ".join(map(repr, unsaid))
        )
    return session, nodes


def has_devices(name: str) -> bool:
    """Whether a device's number means anything to provider ``name``: to each plugin, and to those whose
    options tell it. OpenVINO as it is compiled in has ``device_type`` among its options instead.
    """
    provider = PROVIDERS[name]
    return provider.takes_device or (provider.plugin is not None and not _is_built_in(provider))


def options_of(session: ort.InferenceSession, name: str) -> dict[str, str]:
    """The options that the running session itself gives for provider ``name``."""
    return dict(session.get_provider_options().get(PROVIDERS[name].ort_name, {}))


def _is_built_in(provider: Provider) -> bool:
    # A plugin that is registered is listed, too.
    return provider.ort_name in ort.get_available_providers() and provider.name not in _registered


def _accelerated(
    model: str | bytes,
    provider: Provider,
    device: int,
    options: ort.SessionOptions,
    asked: Mapping[str, str],
    shape: str,
) -> ort.InferenceSession:
    try:
        if _is_built_in(provider):
            if provider.name in ("cuda", "tensorrt"):
                _preload_cuda()
            where = Placement(Path(model) if isinstance(model, str) else model, device, shape)
            started = {**provider.options(where), **asked}
            return ort.InferenceSession(
                model, options, providers=[(provider.ort_name, started), CPU], enable_fallback=0
            )
        options.add_provider_for_devices([_plugin_device(provider, device)], dict(asked))
        return ort.InferenceSession(model, options)
    except ProviderError:
        raise
    except Exception as error:
        if (unknown := _UNKNOWN_OPTION.search(str(error))) is not None:
            raise ProviderError(
                f"provider {provider.name!r} knows no option {unknown[1]!r}; ONNX Runtime's page on "
                f"{provider.ort_name} lists those it has (provider_options, --provider-option)"
            ) from None
        if (unread := _UNREAD_OPTION.search(str(error))) is not None and unread[1] in asked:
            key, why = unread.groups()
            raise ProviderError(
                f"provider {provider.name!r}: its option {key!r} cannot be {asked[key]!r}: {why}"
            ) from None
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
