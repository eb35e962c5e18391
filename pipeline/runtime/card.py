"""Model cards: what a model's file cannot say about itself, stated in TOML instead of guessed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.decoders.family import Task
from pipeline.errors import ModelError
from pipeline.redact import protect, redact
from pipeline.wording import nearest

# Far beyond what pixels of 0..255 can want; float32 holds what comes of it.
_Level = Annotated[float, Field(ge=-1e6, le=1e6)]
Channels = tuple[_Level, _Level, _Level]
Pixels = Annotated[int, Field(ge=1, le=65536)]
Fraction = Annotated[float, Field(ge=0, le=1)]

# What is downloaded becomes a file of this name in the user's folder, and nowhere else.
_PLAIN_NAME = re.compile(r"[\w][\w.+ -]*\.onnx")
# File systems take names of 255 bytes; those of parts (see partfile) are 27 longer.
_LONGEST_NAME = 200
# A model from anywhere brings its card along: it names a file of labels, but not where on this machine.
_PLAIN_STEM = re.compile(r"\w[\w.+ -]*")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CardInput(_Strict):
    """The input contract; what is left out comes from the file or from the family's default.

    The keys are those of ``vision.InputSpec``, where they are explained; ``size`` is (height, width).
    ``mean`` and ``std`` apply to pixels of 0..255 in the model's channel order:
    blob = (pixel - mean) / std. ``pad`` is a grey level before that. The element type is the file's.
    """

    size: tuple[Pixels, Pixels] | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    stride: Pixels | None = None
    color: Literal["RGB", "BGR"] | None = None
    mean: Channels | None = None
    std: Channels | None = None
    resize: Literal["letterbox", "stretch", "crop"] | None = None
    interpolation: Literal["linear", "area"] | None = None
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    align: Literal["center", "top-left"] | None = None
    pad: Annotated[int, Field(ge=0, le=255)] | None = None

    @field_validator("std")
    @classmethod
    def _divides(cls, std: Channels | None) -> Channels | None:
        if std is not None and min(map(abs, std)) < 1e-6:
            raise ValueError("expected three numbers other than 0, of at least 0.000001")
        return std

    @model_validator(mode="after")
    def _of_bytes(self) -> Self:
        if self.mean is None or self.std is None or not all(0 <= level <= 1 for level in self.mean):
            return self
        if min(map(abs, self.std)) < 1:
            raise ValueError(
                "mean and std are of pixels in 0..255: multiply by 255 what is meant for pixels in 0..1; "
                f"got mean = {list(self.mean)}, std = {list(self.std)}"
            )
        return self


class Accuracy(_Strict):
    """AP in 0..1, on which pictures, and how it was measured or who published it."""

    dataset: str
    ap: Fraction
    ap50: Fraction | None = None
    protocol: str = ""


class ModelCard(_Strict):
    """One card file. ``labels`` is the stem of a file in ``models/labels`` or the labels themselves.

    ``urls`` are addresses (http, https) of one and the same file, tried in order; a card that has
    them states its ``sha256``, and ``bytes`` where known.
    """

    name: Annotated[str, Field(min_length=1)]
    file: Annotated[str, Field(min_length=1)]
    urls: tuple[str, ...] = ()
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    bytes: Annotated[int, Field(ge=1)] | None = None
    family: str
    task: Task | None = None
    """None: the family's own."""
    license: str = ""
    source: str = ""
    labels: str | list[str] | None = None
    conf_threshold: Fraction | None = None
    iou_threshold: Fraction | None = None
    input: CardInput = CardInput()
    params: dict[str, Any] = {}
    """What the family's decoder has to be told."""
    accuracy: Accuracy | None = None

    @field_validator("urls")
    @classmethod
    def _addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            protect(url)
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("expected addresses that begin with https:// or http://")
        return urls

    @field_validator("labels")
    @classmethod
    def _sayable(cls, labels: str | list[str] | None) -> str | list[str] | None:
        if isinstance(labels, str) and (
            not _PLAIN_STEM.fullmatch(labels) or len(os.fsencode(labels)) > _LONGEST_NAME
        ):
            raise ValueError(
                "expected a list of labels, or the plain stem of a .txt file "
                "beside the model or in models/labels"
            )
        if isinstance(labels, list) and (bad := not_unicode(labels)) is not None:
            raise ValueError(f"expected labels that are valid Unicode; got {bad!a}")
        return labels

    @model_validator(mode="after")
    def _downloadable(self) -> Self:
        if self.urls and self.sha256 is None:
            raise ValueError("'sha256' is missing: a card with urls has to say which file is the right one")
        if self.urls and not _PLAIN_NAME.fullmatch(self.file):
            raise ValueError(
                f"file: expected the plain name of an .onnx file, because it is downloaded; got {self.file!r}"
            )
        if self.urls and len(os.fsencode(self.file)) > _LONGEST_NAME:
            raise ValueError(
                f"file: expected a name of at most {_LONGEST_NAME} bytes, because it is downloaded"
            )
        return self


def read_card(path: Path) -> ModelCard:
    """Read and check a card. Raises ModelError naming the file and what is wrong in it."""
    try:
        # Some editors begin a file with a byte-order mark, which TOML does not know.
        return ModelCard.model_validate(tomllib.loads(path.read_bytes().decode("utf-8-sig")))
    except OSError as error:
        raise ModelError(f"cannot read model card {path}: {error.strerror}") from None
    except RecursionError:
        raise ModelError(f"model card {path}: it is nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"model card {path} is not valid TOML: {error}") from None
    except ValidationError as error:
        # Not chained: pydantic's own text quotes the input, which may be an address with a password.
        problems = [redact(_problem(entry)) for entry in error.errors(include_url=False)]
        raise ModelError(f"model card {path}: {'; '.join(problems)}") from None


_TABLES: dict[str, type[BaseModel]] = {"": ModelCard, "input": CardInput, "accuracy": Accuracy}


def _problem(entry: Any) -> str:
    """One pydantic error in words: the place, what is wrong, and the nearest valid key."""
    location = entry["loc"]
    place = ".".join(str(part) for part in location)
    if entry["type"] == "extra_forbidden":
        key, table = str(location[-1]), ".".join(map(str, location[:-1]))
        valid = _TABLES[table].model_fields
        for other, model in _TABLES.items():
            if other != table and key in model.model_fields:
                return (
                    f"unknown key {place!r}: it belongs {f'under [{other}]' if other else 'above the tables'}"
                )
        return f"unknown key {place!r}; did you mean {nearest(key, valid)!r}? (valid: {', '.join(valid)})"
    if entry["type"] == "missing":
        return f"{place!r} is missing"
    message = entry["msg"].removeprefix("Value error, ")
    if not place or isinstance(entry["input"], dict):
        return message if not place else f"{place}: {message}"
    shown = redact(repr(entry["input"]))
    return f"{place}: {message} (got {shown if len(shown) <= 60 else f'{shown[:28]}…{shown[-28:]}'})"


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def not_unicode(labels: Iterable[str]) -> str | None:
    """The first label that cannot be written, because it holds half a surrogate pair; None without one."""
    return next((label for label in labels if any("\ud800" <= c <= "\udfff" for c in label)), None)


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line, UTF-8. Raises ModelError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise ModelError(f"there is no file of labels {path}, or it cannot be read") from None
    except UnicodeDecodeError:
        raise ModelError(f"labels {path}: expected one label a line in UTF-8") from None
    return tuple(line.strip() for line in lines if line.strip())


def embedded_card(name: str, file: str, metadata: Mapping[str, str]) -> ModelCard | None:
    """Read the card that a model's own metadata hold; None where they hold none.

    ``framerail.family`` is its family; ``framerail.card``, ``framerail.input`` and ``framerail.params``
    are JSON objects with its other keys. Raises ModelError for what is no card.
    """
    family = metadata.get("framerail.family")
    if family is None:
        return None
    where = f"the metadata of {file}"
    try:
        above, fed, params = (
            json.loads(metadata.get(f"framerail.{part}", "{}")) for part in ("card", "input", "params")
        )
        return ModelCard.model_validate(
            {**above, "name": name, "file": file, "family": family, "input": fed, "params": params}
        )
    except ValidationError as error:
        problems = [redact(_problem(entry)) for entry in error.errors(include_url=False)]
        raise ModelError(f"{where}: {'; '.join(problems)}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{where}: framerail.* expected to be JSON objects: {error}") from None
