"""Why a model is not recognised: what is broken in it, or contradicts it, said before what it could be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.decoders import Identification, TensorInfo, identify
from pipeline.decoders.names import names_of
from pipeline.errors import ModelError, UnknownLayoutError
from pipeline.runtime.trial import Trial


def identified(
    name: str,
    trial: Trial,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    **stated: Any,
) -> Identification:
    """As :func:`identify` with ``trial``. Raises ModelError with what is wrong, as far as it can be told."""
    try:
        return identify(inputs, outputs, metadata, trial=trial, **stated)
    except ModelError as error:
        raise _diagnosed(error, name, trial, (inputs, outputs, metadata), stated) from None


def _diagnosed(
    error: ModelError, name: str, trial: Trial, declared: tuple[Any, ...], stated: dict[str, Any]
) -> ModelError:
    broken = trial.complaints()
    if broken and isinstance(error, UnknownLayoutError):
        by_shape = _without(declared, stated)
        layout = ""
        candidates = error.candidates
        if by_shape is not None:
            candidates = ((by_shape.family.name, by_shape.num_classes),)
            layout = f", of the layout {by_shape.family.name} by their shapes"
        return UnknownLayoutError(
            f"cannot use model {name!r}: it looks broken: {'; '.join(broken)}. Outputs: "
            f"{', '.join(map(str, declared[1]))}{layout}",
            candidates,
        )
    asked = stated.get("stated") or {}
    if labels := stated.get("labels"):
        found = _without(declared, stated | {"labels": ()}, trial)
        if found is not None and found.num_classes != len(labels):
            return ModelError(
                f"model {name!r}: its card names {len(labels)} labels, but its outputs hold "
                f"{found.num_classes} classes ({found.family.name}): name each of them"
            )
    elif isinstance(error, UnknownLayoutError) and "names" in declared[2]:
        metadata = {key: value for key, value in declared[2].items() if key != "names"}
        found = _without((*declared[:2], metadata), stated, trial)
        names = names_of(declared[2])[0]
        if found is not None and found.counted and names and found.num_classes != len(names):
            return UnknownLayoutError(
                f"cannot use model {name!r}: its metadata name {len(names)} classes, but its outputs hold "
                f"{found.num_classes} ({found.family.name}): a card that names each of them settles it",
                [(found.family.name, found.num_classes)],
            )
    if "height" in asked:
        other = {key: value for key, value in asked.items() if key not in ("height", "width")}
        found = _without(declared, stated | {"stated": other}, trial)
        if found is not None:
            return ModelError(
                f"model {name!r} does not work with an input of {asked['width']}x{asked['height']} (width x "
                f"height), but with {found.input['width']}x{found.input['height']}: leave the size away, or "
                "export it for that size"
            )
    return error


def _without(
    declared: tuple[Any, ...], stated: dict[str, Any], trial: Trial | None = None
) -> Identification | None:
    """What it would be with other statements; None where that is not recognised either."""
    try:
        return identify(*declared, trial=trial, **stated)
    except ModelError:
        return None
