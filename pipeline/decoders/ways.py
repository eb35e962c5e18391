"""A model tried as every family would feed it, and how each reads its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from numpy.typing import NDArray

from pipeline.decoders.contract import input_size
from pipeline.decoders.family import Family, TensorInfo, View
from pipeline.decoders.readings import Reading, Trial, read
from pipeline.errors import ModelError


class Way(NamedTuple):
    """A family, the arguments of an InputSpec for its models, and where the size comes from."""

    family: Family
    input: dict[str, Any]
    size_reason: str


def way_of(family: Family, image: TensorInfo, metadata: Mapping[str, str], stated: Mapping[str, Any]) -> Way:
    """Return how a model is fed if it is of a family; ``stated`` of a card comes first."""
    (height, width), reason, layout = input_size(image, metadata, family)
    fed: dict[str, Any] = {"height": height, "width": width, **asdict(family.input), "dtype": image.dtype}
    if layout == "NHWC":
        fed["layout"] = layout
    if image.dtype == "uint8":
        # The graph scales the pixels itself.
        fed |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return Way(family, {**fed, **stated}, reason)


def read_all(
    image: TensorInfo, ways: Sequence[Way], view: View, params: Mapping[str, Any], trial: Trial | None
) -> tuple[list[Reading], View, Trial | None]:
    """Return how each family reads the model, with the view and the trial in which it does.

    Where none reads it as it is, outputs without their batch axis are tried, as some exporters write
    [84, 8400]; an input [?, ?, ?, ?] that runs as no NCHW is tried as NHWC. Raises ModelError where it
    runs in no way.
    """
    try:
        readings = _readings(ways, view, params, trial)
    except ModelError as failure:
        if len(image.shape) != 4 or any(image.shape[1:]) or any("layout" in way.input for way in ways):
            raise
        ways = [way._replace(input={**way.input, "layout": "NHWC"}) for way in ways]
        try:
            readings = _readings(ways, view, params, trial)
        except ModelError:
            raise failure from None
    if readings or any(len(shape) == 2 and shape[0] in (1, None) for shape in view.shapes):
        return readings, view, trial
    outputs = tuple(TensorInfo(each.name, (1, *each.shape), each.dtype) for each in view.outputs)
    view = replace(view, outputs=outputs)
    batched = None if trial is None else lambda fed: [array[None] for array in trial(fed)]
    readings = _readings(ways, view, params, batched)
    return [replace(each, match=replace(each.match, batched=False)) for each in readings], view, batched


def _readings(
    ways: Sequence[Way], view: View, params: Mapping[str, Any], trial: Trial | None
) -> list[Reading]:
    readings, failure, ran = [], None, False

    def tried(fed: Mapping[str, Any]) -> Sequence[NDArray[Any]]:
        nonlocal ran
        assert trial is not None
        arrays = trial(fed)
        ran = True
        return arrays

    for family, fed, size_reason in ways:
        try:
            reading = read(family, view, fed, size_reason, params, None if trial is None else tried)
        except ModelError as error:
            # Another family's size may suit it: free sizes are often free in name only.
            failure = error
        else:
            if reading is not None:
                readings.append(reading)
    if failure is not None and not readings and not ran:
        raise failure
    return readings
