"""Where models are: cards by name, or an ONNX file with or without a card beside it.

Cards ship with the project and may lie in the user's folder of models too. A card's file is looked
for beside the card, then in the user's folder, where ``framerail models pull`` puts it.
"""

from __future__ import annotations

import logging
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.caches import cache_folder
from pipeline.decoders import DECODERS
from pipeline.decoders.family import Task
from pipeline.errors import ModelError
from pipeline.runtime.card import ModelCard, read_card, sha256_of
from pipeline.runtime.hashing import model_sha256
from pipeline.wording import nearest

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent.parent

FOLDER_VARIABLE = "FRAMERAIL_MODELS"

_DARKNET = "framerail models convert NET.cfg NET.weights -o NET.onnx makes one of Darknet's files"
_NO_ONNX = {
    ".cfg": _DARKNET,
    ".weights": _DARKNET,
    **dict.fromkeys((".pt", ".pth"), "export it from PyTorch (torch.onnx.export, yolo export format=onnx)"),
    **dict.fromkeys((".pb", ".tflite", ".h5", ".keras"), "tf2onnx makes one of TensorFlow's files"),
    **dict.fromkeys((".engine", ".plan"), "give the ONNX file that it was built from"),
    **dict.fromkeys((".xml", ".bin"), "give the ONNX file that it was converted from"),
}


def models_dir() -> Path:
    """The folder of cards, labels and the default weights: inside an installed package, else the repo's."""
    packaged = _PACKAGE / "_models"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "models"


def user_dir(folder: str | None = None) -> Path:
    """The user's folder of models, whether or not it is there yet.

    ``folder`` where given, else what FRAMERAIL_MODELS says, else ``framerail/models`` in the
    platform's folder for caches (XDG_CACHE_HOME or ~/.cache; ~/Library/Caches; %LOCALAPPDATA%).
    Raises ModelError where there is no home.
    """
    if folder:
        return Path(os.path.abspath(os.path.expanduser(folder)))
    found = cache_folder("models", FOLDER_VARIABLE)
    if found is None:
        raise ModelError(f"this user has no home folder for models; give one: --dir or {FOLDER_VARIABLE}")
    return found


@dataclass(frozen=True, slots=True)
class Located:
    """A model's file, and its card where it has one."""

    name: str
    path: Path
    card: ModelCard | None
    card_path: Path | None
    sha256: str
    """See :func:`pipeline.runtime.hashing.model_sha256`."""


def cards(folder: str | None = None) -> dict[str, Path]:
    """Card files by model name, sorted. A card in the user's folder (``user_dir``) hides one that ships:
    a name that the user gave keeps its meaning when the project comes to ship one of that name."""
    folders = (models_dir(), *_user_dirs(folder))
    found = {path.stem: path for where in folders for path in where.glob("*.toml")}
    return dict(sorted(found.items()))


def known_for(task: Task) -> str:
    """The names of the cards for a task, as the end of a remedy; nothing where there are none."""
    names = []
    for name, path in cards().items():
        with suppress(ModelError):  # a card that cannot be read is no remedy
            card = read_card(path)
            names += [name] if card.family in DECODERS and DECODERS[card.family].task == task else []
    return f", one of your own or {' or '.join(names)}" if names else ""


def _user_dirs(folder: str | None = None) -> tuple[Path, ...]:
    try:
        return (user_dir(folder),)
    except ModelError:
        # A service without a home has the cards that ship, and files by their paths.
        return ()


def file_of(card: ModelCard, card_path: Path, folder: str | None = None) -> Path | None:
    """Where a card's file is: beside the card, or in the user's folder. None where it is in neither."""
    # A card may say ../weights/x.onnx of what lies beside it, but not of what lies in the user's folder.
    plain = os.path.basename(card.file) == card.file
    folders = (card_path.parent, *(_user_dirs(folder) if plain else ()))
    # Not Path.is_file, which raises for names that no file can have: one bad card must not hide the others.
    return next((path for where in folders if os.path.isfile(path := where / card.file)), None)


def find_card(name: str, folder: str | None = None) -> Path:
    """Return the file of a card, by name or path. Raises ModelError."""
    known = cards(folder)
    if name in known:
        return known[name]
    path = Path(name).expanduser()
    if path.suffix.lower() == ".toml" and path.is_file():
        return path
    raise ModelError(
        f"no model card {name!r}; did you mean {nearest(name, known)!r}? Known: {', '.join(known)}; "
        "or give the path of a card (.toml)"
    )


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
        return _with_card(read_card(known[model]), known[model])
    path = Path(model).expanduser()
    if path.suffix.lower() == ".toml" and path.is_file():
        return _with_card(read_card(path), path)
    remedy = _NO_ONNX.get(path.suffix.lower())
    if path.is_file() and remedy is not None:
        raise ModelError(f"model {model!r} is no ONNX file: {remedy}")
    if path.is_file():
        beside = path.with_suffix(".toml")
        # An empty one states nothing: a shell makes it before `identify m.onnx > m.toml` begins.
        if beside.is_file() and beside.stat().st_size:
            card = read_card(beside)
            if card.file == path.name:
                return _with_card(card, beside)
            log.warning(
                "model card %s is not used for %s: it is for the file %s", beside, path.name, card.file
            )
        return Located(path.stem, path, None, None, model_sha256(path))
    if path.is_dir():
        raise ModelError(f"model {model!r} is a folder; give the .onnx file in it")
    if path.suffix or "/" in model or "\\" in model:
        raise ModelError(f"there is no model file {model!r}; cards known by name: {', '.join(known)}")
    raise ModelError(
        f"unknown model {model!r}; did you mean {nearest(model, known)!r}? Known: {', '.join(known)}; "
        "or give the path of an .onnx file"
    )


def _with_card(card: ModelCard, card_path: Path) -> Located:
    path = file_of(card, card_path)
    if path is None:
        raise ModelError(_missing(card, card_path))
    found, size = sha256_of(path), path.stat().st_size
    whole = model_sha256(path, found)  # what is shown of a model: a card may state that, too
    if card.sha256 not in (None, found, whole) or card.bytes not in (None, size):
        stated = (
            f"sha256 {card.sha256[:12]}…" if card.sha256 else "",
            f"{card.bytes:,} bytes" if card.bytes else "",
        )
        # A file of the right hash would not be replaced: then the size in the card is wrong.
        replaced = card.urls and found != card.sha256
        remedy = f"; framerail models pull {handle(card_path)} replaces it" if replaced else ""
        raise ModelError(
            f"model {card.name!r}: {path} is not the file that its card names: sha256 is {found[:12]}…, "
            f"{size:,} bytes; expected {', '.join(filter(None, stated))}{remedy}"
        )
    return Located(card.name, path, card, card_path, whole)


def handle(card_path: Path) -> str:
    """What ``framerail models pull`` knows a card by: its name, or its path where it lies elsewhere."""
    return card_path.stem if cards().get(card_path.stem) == card_path else shlex.quote(str(card_path))


def _missing(card: ModelCard, card_path: Path) -> str:
    if not card.urls:
        return f"model {card.name!r}: its file {card_path.parent / card.file} is missing"
    return (
        f"model {card.name!r} is not here yet: framerail models pull {handle(card_path)} downloads it; "
        f"offline, copy {card.file} to {user_dir()}"
    )
