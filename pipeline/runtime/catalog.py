"""Where models are: cards by name, or an ONNX file with or without a card beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.config import nearest
from pipeline.errors import ModelError
from pipeline.runtime.card import ModelCard, read_card, sha256_of

_PACKAGE = Path(__file__).resolve().parent.parent


def models_dir() -> Path:
    """The folder of cards, labels and the default weights: inside an installed package, else the repo's."""
    packaged = _PACKAGE / "_models"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "models"


@dataclass(frozen=True, slots=True)
class Located:
    """A model's file, and its card where it has one."""

    name: str
    path: Path
    card: ModelCard | None
    card_path: Path | None
    sha256: str


def cards() -> dict[str, Path]:
    """Card files by model name, sorted."""
    return {path.stem: path for path in sorted(models_dir().glob("*.toml"))}


def locate(model: str) -> Located:
    """Find ``model``: a card's name, or the path of an ONNX file (a card may lie beside it).

    Raises ModelError when there is no such thing, it cannot be read, or its hash is not the card's.
    """
    try:
        return _locate(model)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"cannot read model {model!r}: {reason}") from None


def _locate(model: str) -> Located:
    known = cards()
    if model in known:
        card = read_card(known[model])
        return _with_card(card, known[model])
    path = Path(model).expanduser()
    if path.suffix.lower() == ".toml" and path.is_file():
        return _with_card(read_card(path), path)
    if path.is_file():
        beside = path.with_suffix(".toml")
        if beside.is_file():
            card = read_card(beside)
            if card.file == path.name:
                return _with_card(card, beside)
        return Located(path.stem, path, None, None, sha256_of(path))
    if path.is_dir():
        raise ModelError(f"model {model!r} is a folder; give the .onnx file in it")
    if path.suffix or "/" in model or "\\" in model:
        raise ModelError(f"there is no model file {model!r}; cards known by name: {', '.join(known)}")
    raise ModelError(
        f"unknown model {model!r}; did you mean {nearest(model, known)!r}? Known: {', '.join(known)}; "
        "or give the path of an .onnx file"
    )


def _with_card(card: ModelCard, card_path: Path) -> Located:
    path = card_path.parent / card.file
    if not path.is_file():
        raise ModelError(f"model {card.name!r}: its file {path} is missing")
    found = sha256_of(path)
    if card.sha256 is not None and found != card.sha256:
        raise ModelError(
            f"model {card.name!r}: {path} is not the file that its card names: sha256 is {found[:12]}…, "
            f"expected {card.sha256[:12]}… ({path.stat().st_size:,} bytes, expected {card.bytes or 0:,})"
        )
    return Located(card.name, path, card, card_path, found)
