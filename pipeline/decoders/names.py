"""The class names in a model's own metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.decoders.contract import literal


def names_of(metadata: Mapping[str, str]) -> tuple[tuple[str, ...], str, str | None]:
    """Return the labels under ``names``, where they come from, and a doubt where they cannot be read.

    Ultralytics writes the repr of a dict or list; others JSON, whose keys are text, numbers from 1, or
    plain text with commas. No labels where there are none.
    """
    text = metadata.get("names")
    if text is None:
        return (), "the model's metadata have no names", None
    labels = _labels(literal(text), text)
    if labels:
        return labels, "metadata names", None
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    return (
        (),
        "the model's metadata have names, but not one for each class in order",
        f"the names in the model's metadata cannot be read ({shown!r}): name the classes in a card",
    )


def _labels(value: Any, text: str) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        return tuple(map(str, value))
    if isinstance(value, dict):
        try:
            numbered = {int(key): str(name) for key, name in value.items()}
        except (TypeError, ValueError):
            return ()
        first = min(numbered, default=0)
        in_order = sorted(numbered) == list(range(first, first + len(value)))
        return tuple(numbered[key] for key in sorted(numbered)) if in_order and first in (0, 1) else ()
    parts = [part.strip() for part in text.replace("\n", ",").split(",")]
    return tuple(parts) if value is None and len(parts) > 1 and all(parts) else ()
