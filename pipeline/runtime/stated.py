"""What a card states of a model, checked against what is known and against the file."""

from __future__ import annotations

from typing import Any

from pipeline.decoders import DECODERS, Family
from pipeline.decoders.contract import image_input, spatial
from pipeline.errors import ModelError
from pipeline.runtime.card import ModelCard
from pipeline.runtime.catalog import Located
from pipeline.runtime.session import Session
from pipeline.wording import nearest


def stated_family(card: ModelCard, located: Located) -> Family:
    """The family that a card states. Raises ModelError naming the card, also where its task is another."""
    where = f"model card {located.card_path}" if located.card else f"the metadata of {located.path.name}"
    if card.family not in DECODERS:
        near = nearest(card.family, DECODERS)
        raise ModelError(
            f"{where}: unknown family {card.family!r}; did you mean {near!r}? Known: {', '.join(DECODERS)}"
        )
    family = DECODERS[card.family]
    if card.task not in (None, family.task):
        raise ModelError(
            f"{where}: it says task {card.task!r}, but the family {family.name} is for {family.task!r}"
        )
    return family


def stated_input(
    name: str, card: ModelCard | None, session: Session, input_size: tuple[int, int] | None
) -> dict[str, Any]:
    """The arguments of an InputSpec that are given. Raises ModelError where the file contradicts."""
    stated = card.input.model_dump(exclude_none=True) if card is not None else {}
    whose = "its card says" if input_size is None else "asked for"
    size = input_size or stated.get("size")
    stated.pop("size", None)
    image = image_input(session.inputs)
    if image is None:
        return stated
    declared = spatial(image)
    if stated.get("stride") is not None and None not in declared:
        raise ModelError(f"model {name!r}: its card says a stride, but the file takes one size only")
    if size is not None:
        stated["height"], stated["width"] = size
        if any(fixed not in (None, given) for fixed, given in zip(declared, size, strict=True)):
            taken = "x".join("?" if side is None else str(side) for side in reversed(declared))
            raise ModelError(
                f"model {name!r}: {whose} input {size[1]}x{size[0]} (width x height), "
                f"but the file takes {taken}"
            )
    return stated
