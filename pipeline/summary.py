"""What a run did, as data: the summary file, and what the table at the end is made of."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections import Counter
from io import BufferedWriter
from pathlib import Path
from typing import Any

from pipeline.accounts import told
from pipeline.app import Pipeline
from pipeline.decide import batch_limit, run_concurrency
from pipeline.errors import SinkOpenError, SinkWriteError
from pipeline.histogram import Histogram
from pipeline.runtime.model import Model
from pipeline.sinks import told as outputs_told
from pipeline.sinks.files import check_folder, open_own, own_descriptor, reason, taken, tell_of_old


def summarize(pipeline: Pipeline) -> dict[str, Any]:
    """The summary of a pipeline that has ended (or of one that runs, at this moment).

    Times are milliseconds, FPS emitted frames over the whole run, whose ``seconds`` are; a stream's are those
    that it was on the line. ``conserved`` is whether
    every frame is accounted for and nothing is left in the line. ``detections`` counts those of a
    stream by label, the most frequent first.
    """
    accounts, model = pipeline.accounts, pipeline.model
    streams = {}
    latency = Histogram()
    for name, account in list(accounts.streams.items()):
        latency.add(account.latency)
        streams[name] = {
            **told(account),
            "seconds": round(accounts.on_line(name), 3),
            "detections": dict(Counter(account.detections()).most_common()),
            "error": str(account.error) if account.error is not None else None,
        }
    second = pipeline.second
    return {
        "streams": streams,
        "outputs": outputs_told(pipeline.outputs),
        "conserved": not accounts.violations(pipeline.left_in_line()),
        "fps": round(accounts.fps(), 3),
        "seconds": round(accounts.elapsed(), 3),
        "cpu_seconds": round(accounts.process_cpu(), 3),
        "provider": _provider(pipeline, model),
        "model": _model(model, pipeline.config.model),
        "model_restarts": pipeline.restarts,
        "settings": _settings(pipeline, model),
        "profile": str(pipeline.profile.path) if pipeline.profile is not None else None,
        "second": second and {"provider": _provider(pipeline, second), "model": _model(second, None)},
        "stages": {
            name: {
                "count": histogram.count,
                "p50_ms": _milliseconds(histogram, 0.5),
                "p99_ms": _milliseconds(histogram, 0.99),
                "cpu_seconds": round(accounts.cpu_seconds[name], 3),
            }
            for name, histogram in accounts.stages.items()
        },
        "latency_ms": {"p50": _milliseconds(latency, 0.5), "p99": _milliseconds(latency, 0.99)},
    }


def _provider(pipeline: Pipeline, model: Model | None) -> dict[str, Any]:
    session = model.session if model is not None else None
    return {
        "requested": session.requested if session else pipeline.config.provider,
        "active": session.active if session else None,
        "device": session.device if session else pipeline.config.device[0],
        "nodes": session.nodes if session else {},
        "options": session.options if session else {},
        "devices": [
            {"device": each.device, "active": each.active, "nodes": each.nodes, "options": each.options}
            for each in (model.sessions if model else ())
        ],
    }


def _model(model: Model | None, asked: str | None) -> dict[str, Any]:
    return {
        "name": model.name if model else asked,
        "family": model.family.name if model else None,
        "task": model.family.task if model else None,
        "sha256": model.sha256 if model else None,
    }


def _settings(pipeline: Pipeline, model: Model | None) -> dict[str, Any] | None:
    """How the model is run. ``input`` is width and height of what it is fed at most, ``fed`` of what the
    streams' pictures were fed as, which is less where a rectangle does."""
    if model is None:
        return None
    config = pipeline.config
    workers, threads = run_concurrency(config, model.session.provider)
    accounts = list(pipeline.accounts.streams.values())
    sizes = {(each.height, each.width) for each in accounts if each.height and each.width}
    fed = {model.spec.for_picture(*size) for size in sizes} or {model.spec}
    return {
        "workers": workers,
        "threads": threads,
        "batch": batch_limit(config, model),
        "linger_ms": config.linger_ms,
        "fuse": config.fuse,
        "input": [model.spec.width, model.spec.height],
        "fed": sorted([spec.width, spec.height] for spec in fed),
    }


def ways(settings: dict[str, Any]) -> str:
    """The same in a few words."""
    workers, threads = settings["workers"], settings["threads"]
    runs = f"{workers} run{'s' * (workers != 1)} at once × {threads} thread{'s' * (threads != 1)}"
    fed = ", ".join(f"{width}x{height}" for width, height in settings["fed"])
    fused = ", fused" if settings["fuse"] else ""
    return f"{runs}, batch {settings['batch']}, fed {fed}{fused}"


def _milliseconds(histogram: Histogram, q: float) -> float | None:
    seconds = histogram.quantile(q)
    return None if seconds is None else round(seconds * 1000, 3)


def check_writable(path: str) -> None:
    """Raise SinkOpenError now rather than after hours of running."""
    if path == "-":
        raise SinkOpenError("cannot write summary -: standard output is for --jsonl; give a file's name")
    try:
        own = own_descriptor(path)
        if own is not None:
            open_own(own, f"summary {path}").close()
            return
        final = Path(os.path.realpath(path))
        if final.is_dir():
            raise SinkOpenError(f"cannot write summary {path}: it is a folder; give a file name")
        check_folder(final, f"summary {path}")
        if _is_device(final):
            return
        _check_free(path, final)
        if final.exists():
            tell_of_old(final.stat().st_size, f"summary {path}")
        part = _part(final)
        part.touch(exist_ok=False)
        part.unlink()
    except SinkOpenError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SinkOpenError(f"cannot write summary {path}: {reason}; choose another name") from None


def write_summary(path: str, summary: dict[str, Any]) -> None:
    """Write it whole or not at all; what the process has open (/dev/stdout), a pipe or a device in place.
    Raises SinkWriteError."""
    data = (json.dumps(summary, indent=2) + "\n").encode()
    own, final = own_descriptor(path), Path(os.path.realpath(path))  # not the link is replaced
    try:
        if own is not None:
            with BufferedWriter(open_own(own, f"summary {path}")) as file:
                file.write(data)
        elif _is_device(final):
            final.write_bytes(data)
        else:
            _check_free(path, final)
            _replace(final, data)
    except SinkOpenError as error:
        raise SinkWriteError(str(error)) from None
    except OSError as error:
        raise SinkWriteError(f"cannot write summary {path}: {error.strerror}") from None


def _replace(final: Path, data: bytes) -> None:
    part = _part(final)
    file = part.open("xb")
    try:
        with file:
            file.write(data)
        part.replace(final)
    finally:
        part.unlink(missing_ok=True)


def _check_free(path: str, final: Path) -> None:
    """Raise SinkOpenError where another run is writing that file."""
    if taken(final):
        raise SinkOpenError(f"cannot write summary {path}: {reason(BlockingIOError(errno.EWOULDBLOCK, ''))}")


def _part(final: Path) -> Path:
    """A name that nobody has: NAME.part may be another run's, or somebody's."""
    return final.with_name(f"{final.name}.{secrets.token_hex(4)}.part")


def _is_device(path: Path) -> bool:
    """Whether ``path`` is there and no ordinary file (/dev/null, a pipe): not to be replaced by one."""
    return path.exists() and not path.is_file()
