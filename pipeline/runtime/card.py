"""Model cards: what a model's file cannot say about itself, stated in TOML instead of guessed."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ModelError

Channels = tuple[float, float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CardInput(_Strict):
    """The input contract; what is left out comes from the file or from the family's default.

    ``size`` is (height, width); ``mean`` and ``std`` apply to pixels of 0..255 in the model's
    channel order: blob = (pixel - mean) / std. ``pad`` is a grey level before that.
    """

    size: tuple[int, int] | None = None
    color: Literal["RGB", "BGR"] | None = None
    mean: Channels | None = None
    std: Channels | None = None
    resize: Literal["letterbox", "stretch"] | None = None
    align: Literal["center", "top-left"] | None = None
    pad: Annotated[int, Field(ge=0, le=255)] | None = None


class Accuracy(_Strict):
    """AP as measured, and on what."""

    dataset: str
    ap: float
    ap50: float
    protocol: str = ""


class ModelCard(_Strict):
    """One card file. ``labels`` is the stem of a file in ``models/labels`` or the labels themselves."""

    name: str
    file: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    bytes: int | None = None
    family: str
    task: Literal["detect"] = "detect"
    license: str = ""
    source: str = ""
    labels: str | list[str] | None = None
    conf_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    iou_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    input: CardInput = CardInput()
    params: dict[str, Any] = {}
    """What the family's decoder has to be told."""
    accuracy: Accuracy | None = None


def read_card(path: Path) -> ModelCard:
    """Read and check a card. Raises ModelError naming the file and what is wrong in it."""
    try:
        with path.open("rb") as file:
            return ModelCard.model_validate(tomllib.load(file))
    except OSError as error:
        raise ModelError(f"cannot read model card {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"model card {path} is not valid TOML: {error}") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in entry['loc'])}: {entry['msg']}"
            for entry in error.errors(include_url=False)
        )
        raise ModelError(f"model card {path}: {problems}") from None


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line, UTF-8. Raises ModelError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise ModelError(
            f"there is no file of labels {path}; labels is a list, or the stem of a .txt file "
            "beside the model or in models/labels"
        ) from None
    except UnicodeDecodeError:
        raise ModelError(f"labels {path}: expected one label a line in UTF-8") from None
    return tuple(line.strip() for line in lines if line.strip())
