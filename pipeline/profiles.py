"""What ``framerail tune`` found fastest for a model on this machine; ``run`` goes by it and says so.

A profile holds for one model (its file, and its card, by which it is fed and read), the input size that was
asked for, one machine and one set of versions: its file's name is a hash of these, so what was found
elsewhere, or before an upgrade or an edit of the card, is not found again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import __version__, dependencies
from pipeline.caches import cache_folder
from pipeline.config import Config, make_config
from pipeline.cores import usable_cores
from pipeline.errors import ConfigError, SinkWriteError
from pipeline.runtime.catalog import Located, locate
from pipeline.runtime.engines import gpu_name
from pipeline.runtime.labels import card_labels
from pipeline.runtime.session import runtime_version

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "FRAMERAIL_PROFILES"
SETTINGS = (
    "provider",
    "infer_workers",
    "infer_threads",
    "infer_spinning",
    "batch",
    "fuse",
    "input_size",
    "model",
)
"""Keys of Config that a profile may set."""
_TOGETHER = ("infer_workers", "infer_threads", "infer_spinning")
"""One of these by itself means nothing beside another's value."""


@dataclass(frozen=True, slots=True)
class Profile:
    """``settings`` by the keys of Config; ``speedup`` over the defaults and AP lost (0..1)."""

    settings: dict[str, Any]
    speedup: float
    ap_loss: float
    truth: str
    """Against what AP was lost: labels, or the model's own detections, which is harsher."""
    date: str
    path: Path
    provider: str
    """The one that it was measured on."""
    copy_sha256: str | None
    """Of the smaller copy of the model that ``settings`` name, if they do."""


def here() -> dict[str, Any]:
    """What a profile depends on beside the model: processor, cores, GPU, versions."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "gpu": gpu_name(0),
        "framerail": __version__,
        "runtime": runtime_version(),
        "plugins": dependencies.installed(dependencies.PLUGINS),
        "numpy": metadata.version("numpy"),
    }


def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def folder() -> Path:
    """Where profiles lie. Raises SinkWriteError where there is no home, and nothing names another place."""
    found = cache_folder("profiles", FOLDER_VARIABLE)
    if found is None:
        raise SinkWriteError(f"this user has no home folder for profiles; name one by {FOLDER_VARIABLE}")
    return found


InputSize = tuple[int, int] | None
"""Height and width that the user asked for; None: as the model has it, or as a profile says."""


def told_apart_by(model: Located) -> list[Any]:
    """What makes a model another one: its file, and its card with the labels. Raises ModelError for those."""
    card = model.card
    read = [card.model_dump(mode="json"), list(card_labels(card, model))] if card is not None else None
    return [model.sha256, read]


def path_for(model: Located, size: InputSize = None, machine: dict[str, Any] | None = None) -> Path:
    """The file of a model's profile, where input of ``size`` is asked for, on ``machine`` (None: this one).

    Raises ModelError where the labels that its card names cannot be read.
    """
    # What was measured at one size, and a copy that was made for it, says nothing of another.
    key = json.dumps([told_apart_by(model), size, machine or here()], sort_keys=True)
    return folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def load(model: Located, size: InputSize = None) -> Profile | None:
    """The profile of a model on this machine; None where it was not tuned here, with these versions."""
    place = cache_folder("profiles", FOLDER_VARIABLE)
    if place is None or not place.is_dir():  # nothing was ever tuned here
        return None
    path = path_for(model, size)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        settings = said["settings"]
        if not isinstance(settings, dict) or settings.keys() - set(SETTINGS):
            raise ValueError(f"settings: expected keys among {', '.join(SETTINGS)}")
        # With a source that stands for any: what a profile may say is what a config may.
        make_config({"model": str(path), "streams": [{"source": "sample:"}], **settings})
        if not math.isfinite(float(said["speedup"]) + float(said["ap_loss"])):
            raise ValueError("a figure that is none")
        return Profile(
            settings,
            float(said["speedup"]),
            float(said["ap_loss"]),
            str(said["truth"]),
            str(said["date"]),
            path,
            str(said["provider"]),
            said.get("copy_sha256"),
        )
    except FileNotFoundError:
        return None
    except (
        OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, ConfigError
    ) as error:  # fmt: skip
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        log.warning(
            "the profile %s cannot be read (%s) and is left out; framerail tune makes it anew", path, why
        )
        return None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else who asks for ``path`` is let in meanwhile, however this process ends.

    Raises ConfigError where somebody is at it, SinkWriteError. On Windows two at once are the user's affair.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    lock = path.with_suffix(".lock")
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                file = held.enter_context(lock.open("wb"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                        break  # else the one before has just let go of it
        except BlockingIOError:
            raise ConfigError(
                "this model is being tuned already, by another framerail tune: two at once would measure "
                "each other; wait for it, or end it"
            ) from None
        except OSError as error:
            raise SinkWriteError(
                f"cannot write {lock}: {error.strerror}; {FOLDER_VARIABLE} names another folder"
            ) from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def save(model: Located, report: dict[str, Any], size: InputSize = None) -> Path:
    """Write a profile, whole or not at all. Raises SinkWriteError."""
    path = path_for(model, size)
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise SinkWriteError(
            f"cannot write the profile {path}: {error.strerror}; {FOLDER_VARIABLE} names another folder"
        ) from None
    return path


def applied(config: Config) -> tuple[Config, Profile | None]:
    """``config`` with what its model's profile says of all that it leaves open, and that profile.

    What the user has set stays. A profile for another provider than the one asked for says nothing. Raises
    ModelError where the model is not found.
    """
    if not config.profile:
        return config, None
    located = locate(config.model)
    profile = load(located, config.input_size)
    if profile is None:
        return config, None
    given = config.model_fields_set
    settings = {key: value for key, value in profile.settings.items() if key not in given}
    if config.provider not in ("auto", profile.provider):
        return config, None
    if given & set(_TOGETHER):
        settings = {key: value for key, value in settings.items() if key not in _TOGETHER}
    if "model" in profile.settings:
        # The user names the model that was tuned; the profile a smaller copy of it.
        settings["model"] = profile.settings["model"]
        copy = Path(settings["model"])
        if not copy.is_file() or locate(str(copy)).sha256 != profile.copy_sha256:
            log.warning("the profile's copy of the model, %s, is gone or another: profile left out", copy)
            return config, None
    if not settings:
        return config, None
    changed = make_config({**config.model_dump(exclude_unset=True), **settings})
    log.info(
        "profile of %s for %s: %s; %.2f x as fast as the defaults, %.3f AP lost against %s "
        "(--no-profile leaves it out)",
        profile.date,
        located.name,
        ", ".join(f"{key} {value}" for key, value in settings.items()),
        profile.speedup,
        profile.ap_loss,
        profile.truth,
    )
    return changed, profile
