"""Starting a session: on the provider that was asked for, or on the best that works."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import onnxruntime as ort

from pipeline.errors import ModelError, ProviderError
from pipeline.runtime.demands import check_demands
from pipeline.runtime.fusion import Fusion
from pipeline.runtime.provider_table import AUTO_ORDER
from pipeline.runtime.providers import create_session, on_offer
from pipeline.runtime.rewrite import rewritten

log = logging.getLogger(__name__)

ProviderOptions = Mapping[str, Mapping[str, str]]
"""Options by the provider's name."""
Started = tuple[ort.InferenceSession, dict[str, int]]


def open_session(
    provider: str, start: Callable[[str], Started]
) -> tuple[ort.InferenceSession, dict[str, int], str]:
    """A session, how many nodes each provider got, and the name of the one it runs on."""
    if provider != "auto":
        return (*start(provider), provider)
    for name in on_offer():
        if name not in AUTO_ORDER:
            continue
        try:
            return (*start(name), name)
        except ProviderError as error:
            # What auto means: the best that works. The log says what did not and why.
            if name == "cpu":
                raise
            log.warning("provider auto: %s", error)
    raise ProviderError("no execution provider can be had: reinstall onnxruntime")


def create(
    path: Path,
    name: str,
    *,
    device: int,
    threads: int,
    options: ProviderOptions,
    shape: str,
    spinning: bool,
    rewrite: bool,
    fusion: Fusion | None,
) -> Started:
    """Start a session on provider ``name``. Raises ProviderError; ModelError where the file is unfit.

    ``rewrite``: see ``rewritten``; for the CPU alone, other providers have compilers of their own.
    ``fusion``: what of preprocessing the graph does, None: nothing.
    """
    check_demands(path)
    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4  # fatal only: errors reach us as exceptions, once
    session_options.intra_op_num_threads = threads
    session_options.inter_op_num_threads = 1
    # Idle intra-op threads spin by default and take the cores that other stages need.
    session_options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    try:
        start = partial(
            create_session,
            name=name,
            device=device,
            options=session_options,
            asked=options.get(name),
            shape=shape,
        )
        fused = fusion.applied(path, on_cpu=name == "cpu") if fusion is not None else None
        if rewrite and name == "cpu":
            return _rewritten_first(path, fused, start)
        return start(fused or str(path))
    except ProviderError:
        if name != "cpu":
            _load_on_cpu(path)  # a broken file is a ModelError, whatever provider was asked
        raise
    except ModelError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from None


def _rewritten_first(path: Path, fused: bytes | None, start: Callable[[str | bytes], Started]) -> Started:
    """Start on the rewritten graph; on ``fused`` or the file, where there is none or it is refused.

    Rewriting needs room for temporary files and meets graphs that nobody has thought of. It only makes
    faster what runs without it, so a model that can be loaded is.
    """
    reason = ""
    try:
        data = rewritten(path, fused)
        if data is not None:
            # From a file, since ONNX Runtime's session would keep the bytes for as long as it lives.
            with tempfile.TemporaryDirectory(prefix="framerail-") as folder:
                graph = Path(folder) / "rewritten.onnx"
                graph.write_bytes(data)
                del data
                return start(str(graph))
    except ProviderError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
    started = start(fused or str(path))  # says better what is wrong with a file that is broken
    if reason:
        log.warning(
            "%s: its graph runs as it is in the file, it could not be rewritten for the CPU: %s "
            "(--no-rewrite does not try)",
            path.name,
            reason,
        )
    return started


def _load_on_cpu(path: Path) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:
        raise _unreadable(path, error) from None


_SHORT_OF_MEMORY = ("out of memory", "bad_alloc", "bad allocation", "failed to allocate memory")
"""As CUDA, the C++ library and ONNX Runtime's arena say it."""


def _unreadable(path: Path, error: Exception) -> ModelError:
    size = path.stat().st_size if path.exists() else 0
    reason = str(error).removeprefix("[ONNXRuntimeError] : ")
    short = isinstance(error, MemoryError) or any(word in reason.lower() for word in _SHORT_OF_MEMORY)
    remedy = (
        "memory is short: end what else uses it, or take a smaller model"
        if short
        else f"is it a complete ONNX file for onnxruntime {ort.__version__}?"
    )
    return ModelError(f"cannot load model {path} ({size:,} bytes): {reason}; {remedy}")
