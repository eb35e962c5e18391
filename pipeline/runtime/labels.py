"""The names of a model's classes: those that a card states, or what their number suggests."""

from __future__ import annotations

from pipeline.decoders import Identification
from pipeline.errors import ModelError
from pipeline.runtime.card import ModelCard, read_labels
from pipeline.runtime.catalog import Located, models_dir


def card_labels(card: ModelCard, located: Located) -> tuple[str, ...]:
    """The labels that a card states, in it or by the stem of a file; empty without. Raises ModelError."""
    if card.labels is None:
        return ()
    if isinstance(card.labels, list):
        return tuple(card.labels)
    name = f"{card.labels.removesuffix('.txt')}.txt"
    folders = located.path.parent, models_dir() / "labels"
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        raise ModelError(
            f"there is no file of labels {name} in {folders[0]}, where the model lies, nor in {folders[1]}; "
            "labels is a list, or the name of a .txt file there"
        )
    return read_labels(found)


def default_labels(found: Identification, reasons: dict[str, str]) -> tuple[tuple[str, ...], str | None]:
    """Labels for classes that nothing names, one each, and the warning where they are numbers.

    ``reasons`` is told why.
    """
    classes, why = found.num_classes, reasons["labels"]
    if found.unlike_coco is not None:
        reasons["labels"] = found.unlike_coco
        return tuple(f"class {index}" for index in range(classes)), found.unlike_coco
    known, numbers = found.counted, found.numbers

    def because(whose: str) -> str:
        said = f"{whose}, because the model has {classes} classes" if numbers is None else numbers.why
        return f"{said} ({why})"

    if known and found.family.task == "classify" and classes == 1000:
        reasons["labels"] = because("ImageNet's 1000")
        return read_labels(models_dir() / "labels" / "imagenet1k.txt"), None
    boxes = known and found.family.task != "classify"
    if boxes and classes == 91:
        reasons["labels"] = because("COCO's 80 by their own numbers")
        return read_labels(models_dir() / "labels" / "coco91.txt"), None
    if boxes and classes == 80:
        reasons["labels"] = because("COCO's 80")
        return read_labels(models_dir() / "labels" / "coco80.txt"), None
    said = f"{classes} classes" if known else "classes, whose number is not known"
    said = "one class" if known and classes == 1 else said
    reasons["labels"] = f"numbers, because nothing names its {said} (write a card to name them)"
    warning = f"nothing names its {said}: labels are numbers, unless a card names them (labels = [...])"
    return tuple(f"class {index}" for index in range(classes)), warning
