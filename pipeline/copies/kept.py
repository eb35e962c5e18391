"""Smaller copies of a model for ``bench`` and ``tune``, made as ``models quantize`` makes them, and kept.

Making one takes minutes, so what came of it lies among the caches: the copy, or that none loses little
enough, with the figures. It holds for one model as it is fed and read, footage, limit, processor and
versions: its files' name is a hash of these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline import profiles
from pipeline.copies.loss import Options
from pipeline.errors import PipelineError
from pipeline.placing import place
from pipeline.runtime.card import sha256_of
from pipeline.runtime.embed import embedded
from pipeline.runtime.model import Model
from pipeline.sources import local_files, parse_source
from pipeline.sources.pictures import pictures_in

_MACHINE = ("cpu", "framerail", "runtime", "numpy")
"""What of :func:`profiles.here` changes a copy's answers: the kernels for int8 are the processor's."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What came of making a copy in ``precision``, named as ``models quantize`` names it.

    ``path`` None: there is none, and ``why`` says why not. ``report`` is that of ``models quantize``, with
    what it has lost (``measured``); empty where it did not come as far as that.
    """

    precision: str
    path: Path | None
    sha256: str | None
    report: Mapping[str, Any]
    why: str = ""

    @property
    def ap_loss(self) -> float | None:
        """AP (0..1) that it has lost, or that it was refused for; None where that was not measured."""
        return float(self.report["measured"]["loss"]) if self.report else None


def made(
    asked: Options, model: Model, err: Console, tell: Callable[[str], None], *, fresh: bool = False
) -> Copy:
    """A copy of ``model`` as ``asked``, or why there is none; what was found earlier where it still holds.

    ``model`` is ``asked.model``, opened on any provider. ``asked.output`` counts for nothing. ``tell``
    hears what is done, ``err`` shows how far it is. ``fresh``: make it anew.
    """
    from pipeline.copies.quantize import copied

    try:
        stem = f"{model.name}-{asked.precision}-{_key(asked, model)}"
        path = profiles.folder() / f"{stem}.onnx"
        found = None if fresh else _kept(asked.precision, path)
        if found is not None:
            return found
        tell(f"making a copy in {asked.precision}")
        path.parent.mkdir(parents=True, exist_ok=True)
        report, why = copied(replace(asked, output=str(path)), err, like=model)
        sha256 = sha256_of(path) if report["accepted"] else None
        said = {
            "kind": "framerail copy",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "sha256": sha256,
            "why": why,
            "report": report,
        }
        # After the copy: without it, whatever lies there is made anew.
        place(json.dumps(said, indent=2, ensure_ascii=False).encode(), path.with_suffix(".json"))
    except (PipelineError, OSError) as error:
        return Copy(asked.precision, None, None, {}, str(error))
    except ExceptionGroup as group:
        return Copy(asked.precision, None, None, {}, "; ".join(str(error) for error in group.exceptions))
    return Copy(asked.precision, path if report["accepted"] else None, sha256, report, why)


def _kept(precision: str, path: Path) -> Copy | None:
    """What was found earlier; None where that is nothing, or not whole."""
    about = path.with_suffix(".json")
    try:
        said = json.loads(about.read_text(encoding="utf-8"))
        sha256, report, why = said["sha256"], said["report"], said["why"]
        found = Copy(precision, path if sha256 is not None else None, sha256, report, why)
        whole = found.ap_loss is not None and (sha256 is None or sha256_of(path) == sha256)
        earlier = f"{why} (found on {said['date']}; without the file {about} it is tried anew)"
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never made, interrupted, or spoilt: all mean to make it
    if not whole:
        return None
    return replace(found, why=earlier) if sha256 is None else found


def _key(asked: Options, model: Model) -> str:
    """A hash of all that a copy depends on. Raises ConfigError, SourceOpenError."""
    here = profiles.here()
    size = asked.config(asked.model).input_size  # however it was written
    options = {**asdict(asked), "max_ap_loss": asked.limit, "input_size": size}
    for name in ("model", "output", "calibrate", "images", "annotations"):
        del options[name]
    about = {
        "model": model.sha256,
        # A card beside the file decides how it is fed and read.
        "read": embedded(model),
        "options": options,
        "footage": [list(identity(address)) for address in asked.calibrate],
        "labels": [_state(path) for path in _labels(asked)],
        "machine": {name: here[name] for name in _MACHINE},
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]


def identity(address: str) -> Iterator[Any]:
    """The state of a source's files, or the address of one that has none, which may hold a password: for
    JSON, and another one for other pictures at the same address."""
    spec = parse_source(address)
    files = local_files(spec)
    yield from (_state(Path(file)) for file in files)
    if not files:
        yield [spec.kind, spec.address]


def _labels(asked: Options) -> list[Path]:
    if asked.images is None or asked.annotations is None:
        return []
    return [Path(asked.annotations), *pictures_in(Path(asked.images))]


def _state(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]
