"""A config's problems in words: the place, what is wrong, and the nearest valid key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from pipeline.redact import redact

Location = tuple[int | str, ...]
"""Where a key stands: ``("streams", 0, "pace")``."""


def dotted(location: Location) -> str:
    """As the config file has it: ``streams.0.pace``."""
    return ".".join(map(str, location))


def nearest(word: str, choices: Iterable[str]) -> str:
    """The choice most like ``word``: one that it begins or that begins it, else by letters in common."""
    choices = list(choices)
    related = [c for c in choices if word and (c.startswith(word) or word.startswith(c))]
    return difflib.get_close_matches(word, related or choices, n=1, cutoff=0.0)[0]


def problem(
    entry: Any,
    named: Callable[[Location], str],
    root: type[BaseModel],
    below: Mapping[str, type[BaseModel]],
) -> str:
    """One of pydantic's errors (an entry of its ``errors``) of a ``root`` in words; places are as they are
    ``named``. ``below``: what stands under which key, at any depth."""
    location = entry["loc"]
    place = named(location)
    if entry["type"] == "extra_forbidden":
        model = root
        for part in location[:-1]:
            model = below.get(str(part), model)
        if model is root and location[-1] in below["streams"].model_fields:
            return f"unknown key {place!r}: it belongs to a stream, under 'streams'"
        near = nearest(str(location[-1]), model.model_fields)
        return f"unknown key {place!r}; did you mean {near!r}? (valid: {', '.join(model.model_fields)})"
    if entry["type"] == "missing":
        return f"{place!r} is missing"
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", entry["ctx"]["expected"])
        near = nearest(str(entry["input"]), choices)
        message = f"expected {', '.join(choices)}; did you mean {near!r}?"
    said = isinstance(entry["input"], dict) or repr(entry["input"]) in message
    shown = "" if said else f" (got {_shown(entry['input'])})"
    return f"{place}: {message}{shown}" if place else f"{message}"


def _shown(value: Any) -> str:
    """``value``, shortened after its secrets are out: half an address cannot be recognised."""
    text = redact(repr(value))
    return text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}"
