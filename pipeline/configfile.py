"""A config's YAML file, read: its references resolved, its secrets protected from then on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline import smallfile
from pipeline.config import Config, make_config
from pipeline.errors import ConfigError
from pipeline.redact import protect
from pipeline.references import resolved
from pipeline.yamlfile import MOST_BYTES, parse, remedy


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read a YAML file; ``overrides`` (from flags) win over its top-level keys.

    Raises ConfigError when the file cannot be read, is no YAML mapping, or says something
    that cannot be meant.
    """
    path = Path(path)
    try:
        raw = smallfile.read(path, MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from error
    try:
        data = parse(raw)
    except yaml.MarkedYAMLError as error:
        # Not the error's own text: it quotes the line, which may hold half a password.
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigError(f"config {path} is not valid YAML{where}: {remedy(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"config {path}: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"config {path} is not valid YAML: {type(error).__name__}") from None
    for text in _strings(data):
        protect(text)
    if not isinstance(data, dict):
        raise ConfigError(f"config {path}: expected a mapping such as 'streams: [...]', got {_kind(data)}")
    return make_config({**_referring(data, f"config {path}"), **(overrides or {})}, where=f"config {path}")


def _referring(data: dict[Any, Any], where: str) -> dict[Any, Any]:
    """``data`` with the references in its sources resolved; what is no stream is complained of elsewhere."""
    streams = data.get("streams")
    if not isinstance(streams, list):
        return data
    told = []
    for number, stream in enumerate(streams):
        if isinstance(stream, dict) and isinstance(source := stream.get("source"), str):
            stream = {**stream, "source": resolved(source, f"{where}: streams.{number}.source")}
        told.append(stream)
    return {**data, "streams": told}


def _strings(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict | list):
        for inner in data.values() if isinstance(data, dict) else data:
            yield from _strings(inner)


def _kind(value: Any) -> str:
    return "an empty file" if value is None else f"a {type(value).__name__}"
