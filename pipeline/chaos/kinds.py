"""What can be done to a connection or a stream: one table of faults, their keys and how they are read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError

FOREVER = math.inf
_ENVIRONMENT = re.compile(r"\$\{(\w+)\}")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError("above 0")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError("within 0..1, above 0")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("at least 1")
    return value


def _whose(text: str) -> str:
    if text not in ("kit", "connection"):
        raise ValueError("kit or connection")
    return text


def secret(text: str) -> str:
    """``text`` with ``${NAME}`` from the environment. Raises ConfigError where that is not set."""

    def of_environment(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"expected the environment variable {match[1]}, it is not set; set it")
        return os.environ[match[1]]

    return _ENVIRONMENT.sub(of_environment, text)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: what it does, in a line; its own keys; whether it lasts or happens once."""

    does: str
    keys: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    lasts: float | None = FOREVER
    """Seconds unless ``for`` says so; None: it happens once."""
    only: str = ""
    """``serve``: the proxy cannot do it."""
    kits: bool = False
    """It befalls all at the same time, never each connection by itself."""
    in_bytes: bool = False
    """May begin after so many bytes of a connection."""

    @property
    def unfit(self) -> frozenset[str]:
        """Those of :data:`SHARED` that mean nothing here."""
        return frozenset(({"for"} if self.lasts is None else set()) | ({"of"} if self.kits else set()))


_RATE = {"rate": _share}
KINDS: dict[str, Kind] = {
    "refuse": Kind("nothing listens; connections that are open go on", kits=True),
    "restart": Kind("every connection is reset and nothing listens", lasts=1.0, kits=True),
    "silent": Kind("a connection that is made is never answered"),
    "stall": Kind("nothing more is sent, from the middle of a packet on", in_bytes=True),
    "reset": Kind("the connection is reset (RST)", lasts=None, in_bytes=True),
    "close": Kind("the connection is closed (FIN)", lasts=None, in_bytes=True),
    "trickle": Kind("so many bytes a second are sent", {"bytes": _positive}, ("bytes",)),
    "garble": Kind(
        "this share of bytes is replaced, those of the dialogue and of framing too", _RATE, ("rate",)
    ),
    "drop": Kind("this share of media packets is left out", _RATE, ("rate",)),
    "duplicate": Kind("this share of media packets is sent twice", _RATE, ("rate",)),
    "reorder": Kind(
        "this share of media packets is sent `by` packets later",
        {"rate": _share, "by": _count},
        ("rate",),
        {"by": 3},
    ),
    "corrupt": Kind(
        "in this share of media packets, `bytes` bytes of the payload are replaced",
        {"rate": _share, "bytes": _count},
        ("rate",),
        {"bytes": 8},
    ),
    "switch": Kind("the next clip goes on, in another resolution or codec", lasts=None, only="serve"),
    "rewind": Kind("the clip begins again, and its times with it", lasts=None, only="serve"),
    "jump": Kind(
        "presentation times go on `by` seconds later, or earlier",
        {"by": _seconds},
        ("by",),
        {},
        None,
        "serve",
    ),
    "repeat": Kind("pictures all have the same presentation time", lasts=1.0, only="serve"),
    "freeze": Kind("the last key frame is sent again and again", only="serve"),
    "black": Kind("black pictures are sent", only="serve"),
    "rate": Kind(
        "pictures come at `fps` a second, whatever is declared", {"fps": _positive}, ("fps",), only="serve"
    ),
    "password": Kind(
        "this password is demanded from now on; whoever came with another is cut off",
        {"user": secret, "password": secret},
        ("password",),
        {"user": "admin"},
        None,
        "serve",
        kits=True,
    ),
}
PACKET_KINDS = ("drop", "duplicate", "reorder", "corrupt")
SHARED: dict[str, Callable[[str], Any]] = {"for": _positive, "of": _whose, "times": _count}


def described() -> list[dict[str, str]]:
    """Each kind: its name, what it does, and how it is written with its keys."""
    rows = []
    for name, kind in KINDS.items():
        must = [f"{key}=…" for key in kind.required]
        shared = [key for key in SHARED if key not in kind.unfit]
        may = [f"{key}=…" for key in (*kind.keys, *shared) if key not in kind.required]
        when = "WHEN|BYTESB" if kind.in_bytes else "WHEN"
        where = f"; {kind.only} only" if kind.only else ""
        rest = ",".join([*must, f"[{','.join(may)}]"])
        rows.append({"kind": name, "does": kind.does + where, "written": f"{name}@{when}:{rest}"})
    return rows
