"""What a benchmark varies: ``--sweep batch=1,4,workers`` and ``--streams 1,2,4`` to settings of points."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config import Config, make_config
from pipeline.cores import usable_cores
from pipeline.errors import ConfigError
from pipeline.runtime.model import Model
from pipeline.runtime.providers import on_offer
from pipeline.wording import nearest

Values = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """Something that can be varied: the Config key that it sets, and the values to try by itself.

    ``usual`` is given the names of the providers that are measured, too. ``key`` None: it sets none by
    itself, its value is only asked for. ``known``: the values that there are, where they are few.
    """

    key: str | None
    usual: Callable[[Model, Sequence[str]], Sequence[str]]
    known: tuple[str, ...] = ()


def _powers(most: int) -> list[str]:
    return [str(2**n) for n in range(most.bit_length()) if 2**n <= most]


def _sizes(model: Model) -> list[str]:
    spec = model.spec
    if spec.stride is None:
        return [f"{spec.width}x{spec.height}"]
    shares = (0.5, 0.65, 0.8, 1.0)
    sides = [
        [max(1, round(side * share / spec.stride)) * spec.stride for side in (spec.width, spec.height)]
        for share in shares
    ]
    return list(dict.fromkeys(f"{width}x{height}" for width, height in sides))


def _precisions(_model: Model, providers: Sequence[str]) -> list[str]:
    return [name for name in PRECISIONS if name != "float16" or not set(providers) <= _FLOAT32]


_FLOAT32 = frozenset({"cpu", "xnnpack"})
"""Providers whose kernels are for float32: they compute float16 in it, with casts around."""
PRECISIONS: Mapping[str, str | None] = {"float32": None, "int8": "int8", "float16": "fp16"}
"""What ``models quantize`` calls the copy that is measured; None: the file as it is."""

AXES: Mapping[str, Axis] = {
    "provider": Axis("provider", lambda _model, _providers: on_offer()),
    "batch": Axis(
        "batch",
        lambda model, _providers: _powers(8) if model.max_batch is None else [str(model.max_batch)],
    ),
    "workers": Axis("infer_workers", lambda _model, _providers: _powers(2 * usable_cores())),
    "threads": Axis("infer_threads", lambda _model, _providers: _powers(usable_cores())),
    "input-size": Axis("input_size", lambda model, _providers: _sizes(model)),
    "rewrite": Axis("rewrite", lambda _model, _providers: ["true", "false"], ("true", "false")),
    "fuse": Axis("fuse", lambda _model, _providers: ["false", "true"], ("true", "false")),
    "precision": Axis(None, _precisions, tuple(PRECISIONS)),
}
"""By the name that ``--sweep`` takes."""


_COUNTS = ("batch", "workers", "threads")


def parse_sweep(texts: Sequence[str]) -> dict[str, Values]:
    """``batch=1,4,workers`` to {"batch": ("1", "4"), "workers": ()}; nothing: the usual values.

    Raises ConfigError for an axis that is not known, or that stands twice.
    """
    swept: dict[str, Values] = {}
    for text in texts:
        name = ""
        for part in text.split(","):
            word, equals, value = part.strip().partition("=")
            if not equals and name and word not in AXES:
                swept[name] += (word,)
                continue
            name = word
            if name not in AXES:
                near = nearest(name, AXES)
                raise ConfigError(
                    f"--sweep: unknown {name!r}; did you mean {near!r}? Known: {', '.join(AXES)}"
                )
            if name in swept:
                raise ConfigError(f"--sweep: {name} stands twice; write {name}=A,B")
            swept[name] = (value,) if equals else ()
    for name, values in swept.items():
        known = AXES[name].known
        if len(set(values)) < len(values):
            raise ConfigError(f"--sweep: {name} has a value twice: {', '.join(values)}")
        for value in values:
            if known and value not in known:
                raise ConfigError(f"--sweep: {name} is one of {', '.join(known)}; got {value!r}")
            if name in _COUNTS and _number(value) not in range(1, 10_000):
                raise ConfigError(f"--sweep: {name} takes numbers from 1 on, as in {name}=1,2; got {value!r}")
    return swept


def parse_streams(text: str | None) -> list[int]:
    """``1,2,4`` to [1, 2, 4]. Raises ConfigError."""
    if text is None:
        return []
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1 or len(set(counts)) < len(counts):
        raise ConfigError(f"--streams: expected numbers of streams such as 1,2,4,8; got {text!r}")
    return counts


@dataclass(frozen=True, slots=True)
class Planned:
    """A point that is to be measured: ``asked`` is what tells it from the others."""

    config: Config
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For people: ``batch 4, 2 streams``."""
        named = [f"{key} {value}" for key, value in self.asked.items() if key != "streams"]
        if "streams" in self.asked:
            count = self.asked["streams"]
            named.append(f"{count} stream{'s' * (count > 1)}")
        return ", ".join(named)


def points(
    config: Config, model: Model, swept: Mapping[str, Values], counts: Sequence[int]
) -> Iterator[Planned]:
    """Every combination of the values, each checked. ``counts`` of streams repeat the config's in turn."""
    axes = usual(model, swept)
    base = config.model_dump(exclude_unset=True)
    for values in itertools.product(*axes.values()):
        asked: dict[str, Any] = dict(zip(axes, values, strict=True))
        keys = {name: key for name in asked if (key := AXES[name].key) is not None}
        options = {key: _number(asked[name]) for name, key in keys.items()}
        if not counts:
            yield Planned(make_config({**base, **options}, where="bench"), asked)
        for count in counts:
            config = make_config({**base, **options, "streams": repeated(base["streams"], count)})
            yield Planned(config, {**asked, "streams": count})


def usual(model: Model, swept: Mapping[str, Values]) -> dict[str, Values]:
    """``swept`` with the usual values of each axis that was given none."""
    providers = swept.get("provider", (model.session.provider,)) or tuple(on_offer())
    return {name: values or tuple(AXES[name].usual(model, providers)) for name, values in swept.items()}


def repeated(streams: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """``count`` streams, those given in turn, numbered from 1."""
    return [
        {**stream, "name": str(number + 1)}
        for number, stream in zip(range(count), itertools.cycle(streams), strict=False)
    ]


def _number(value: str) -> Any:
    return int(value) if value.isascii() and value.isdecimal() else value
