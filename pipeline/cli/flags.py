"""What the flags of ``framerail run`` come to: a config."""

from __future__ import annotations

from typing import Any

import typer

from pipeline.cli.common import given
from pipeline.config import Config, make_config
from pipeline.configfile import load_config
from pipeline.errors import ConfigError
from pipeline.wording import Location, dotted


def camera(size: str | None, fps: float | None, pixel_format: str | None) -> dict[str, Any] | None:
    """The camera's keys that were given. Raises typer.BadParameter."""
    asked: dict[str, Any] = given({"fps": fps, "pixel_format": pixel_format})
    if size is not None:
        width, _, height = size.lower().partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise typer.BadParameter(
                f"expected WxH such as 1280x720, got {size!r}", param_hint="--camera-size"
            )
        asked |= {"width": int(width), "height": int(height)}
    return asked or None


def provider_options(texts: list[str] | None) -> dict[str, str] | None:
    """``NAME=VALUE`` of each. Raises typer.BadParameter."""
    pairs = [text.partition("=") for text in texts or ()]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise typer.BadParameter(
                f"expected NAME=VALUE such as use_tf32=0, got {name + equals + value!r}",
                param_hint="--provider-option",
            )
    return {name: value for name, _, value in pairs} or None


_FLAGS = {
    "conf_threshold": "--conf",
    "iou_threshold": "--iou",
    "provider_options": "--provider-option",
    "width": "--camera-size",
    "height": "--camera-size",
    "fps": "--camera-fps",
    "pixel_format": "--camera-format",
}
"""Of keys whose flag has another name."""


def flag(location: Location) -> str:
    """The flag that a key was given by; a source and its number as the config has them."""
    keys = [key for key in location if isinstance(key, str) and key not in ("streams", "camera")]
    if not keys or keys[0] == "source":
        return dotted(location)
    return _FLAGS.get(keys[0], "--" + keys[0].replace("_", "-"))


def config_of(
    path: str | None,
    sources: list[str],
    names: list[str],
    per_stream: dict[str, Any],
    options: dict[str, Any],
) -> Config:
    """The config of a run, of the file ``path`` where there is one and flags over it. Raises ConfigError."""
    if len(names) > len(sources):
        raise ConfigError(f"--name is given {len(names)} times for {len(sources)} sources; one each at most")
    if not sources and path is None:
        raise ConfigError(
            "nothing to run: give a SOURCE, --source-file FILE or --config FILE.yaml (sample: is the bundled "
            "clip)"
        )
    streams = [
        {"source": source, **({"name": names[index]} if index < len(names) else {}), **per_stream}
        for index, source in enumerate(sources)
    ]
    if path is None:
        return make_config({"streams": streams, **options}, named=flag)
    if streams:
        options["streams"] = streams
        return load_config(path, options)
    config = load_config(path, options)
    if not per_stream:
        return config
    merged = [{**stream.model_dump(exclude_unset=True), **per_stream} for stream in config.streams]
    return make_config({**config.model_dump(exclude_unset=True), "streams": merged}, where=f"config {path}")
