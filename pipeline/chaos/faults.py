"""A fault of a script, and how it is written: ``kind@when:key=value,key=value``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline import yamlfile
from pipeline.chaos.kinds import FOREVER, KINDS, SHARED, Kind
from pipeline.errors import ConfigError

_TEXT = re.compile(r"(?P<kind>[a-z]+)(?:@(?P<when>[^:]*))?(?::(?P<rest>.*))?", re.DOTALL)
_WHEN = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>s|B)?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a script. :func:`parse_fault` checks what it makes; use that."""

    kind: str
    at: float = 0.0
    """Seconds since the kit began (or, with ``each``, the connection) at which it begins."""
    after_bytes: int | None = None
    """In the place of ``at``: bytes sent on a connection."""
    lasts: float = FOREVER
    """Seconds; 0 for what happens once."""
    each: bool = False
    """Times are of each connection by itself: since it was made, or since its first picture."""
    times: int | None = None
    """Most injections, as they are counted; None: no limit."""
    keys: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __getitem__(self, key: str) -> Any:
        return self.keys[key]

    def __str__(self) -> str:
        when = f"{self.after_bytes}B" if self.after_bytes is not None else f"{self.at:g}s"
        shown = {
            key: "***" if key in ("user", "password") else _plain(value) for key, value in self.keys.items()
        }
        if 0 < self.lasts < FOREVER:
            shown["for"] = f"{self.lasts:g}"
        if self.each and self.after_bytes is None:
            shown["of"] = "connection"
        if self.times is not None:
            shown["times"] = str(self.times)
        rest = ",".join(f"{key}={value}" for key, value in shown.items())
        return f"{self.kind}@{when}" + (f":{rest}" if rest else "")


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse_fault(text: str) -> Fault:
    """Read ``kind``, ``kind@2``, ``kind@5000B`` or ``kind@2:for=3,rate=0.1``. Raises ConfigError."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"fault {text!r}: expected KIND@WHEN:NAME=VALUE,…, such as stall@2:for=3")
    given: dict[str, str] = {}
    for pair in match["rest"].split(",") if match["rest"] else ():
        key, equals, value = pair.partition("=")
        if not equals or key.strip() in given:
            raise ConfigError(f"fault {match['kind']}: expected NAME=VALUE once each, not {key.strip()!r}")
        given[key.strip()] = value.strip()
    return _fault(match["kind"], match["when"], given)


def _fault(name: str, when: str | None, given: Mapping[str, str]) -> Fault:
    kind = KINDS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, KINDS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"unknown fault {name!r}, expected one of {', '.join(KINDS)}{meant}")
    at, after_bytes = _when(name, kind, when)
    shared = {key: read for key, read in SHARED.items() if key not in kind.unfit}
    readers = {**shared, **kind.keys}
    values: dict[str, Any] = {}
    for key, text in given.items():
        if key not in readers:
            raise ConfigError(f"fault {name} has no key {key!r}, expected one of {', '.join(readers)}")
        try:
            values[key] = readers[key](text)
        except ConfigError:
            raise
        except ValueError as error:
            said = str(error) if not str(error).startswith(("could not", "invalid")) else "a number"
            raise ConfigError(f"fault {name}: {key}: expected {said}, got {text!r}") from None
    if missing := [key for key in kind.required if key not in values]:
        raise ConfigError(f"fault {name} needs {missing[0]}: {name}@{when or 0}:{missing[0]}=…")
    return Fault(
        name,
        at,
        after_bytes,
        values.pop("for", 0.0 if kind.lasts is None else kind.lasts),
        values.pop("of", "kit") == "connection" or after_bytes is not None,
        values.pop("times", None),
        {**kind.defaults, **values},
    )


def _when(name: str, kind: Kind, when: str | None) -> tuple[float, int | None]:
    match = _WHEN.fullmatch(when if when is not None else "0")
    if match is None:
        raise ConfigError(
            f"fault {name}: expected seconds or bytes after @, such as 2 or 5000B, got {when!r}"
        )
    if match["unit"] != "B":
        return float(match["number"]), None
    if not kind.in_bytes:
        able = ", ".join(other for other, one in KINDS.items() if one.in_bytes)
        raise ConfigError(f"fault {name} begins after seconds, not bytes; after bytes can: {able}")
    return 0.0, int(float(match["number"]))


def parse_faults(faults: Iterable[str | Fault]) -> tuple[Fault, ...]:
    """Faults, of which some are still text. Raises ConfigError."""
    return tuple(fault if isinstance(fault, Fault) else parse_fault(fault) for fault in faults)


def load_script(path: str | Path) -> tuple[tuple[Fault, ...], int | None]:
    """Read the faults and the seed of a YAML file: ``{seed: 7, faults: [...]}``. Raises ConfigError.

    A fault is a text as for :func:`parse_fault`, or a mapping: ``{kind: stall, at: 2, for: 3}``.
    """
    try:
        script = yamlfile.parse(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the script {path}: {error}") from None
    if (
        not isinstance(script, dict)
        or not isinstance(script.get("faults"), list)
        or set(script) - {"faults", "seed"}
    ):
        raise ConfigError(f"script {path}: expected the keys faults (a list) and, if wanted, seed; no others")
    seed = script.get("seed")
    if seed is not None and not isinstance(seed, int):
        raise ConfigError(f"script {path}: seed: expected a whole number, got {seed!r}")
    faults = []
    for entry in script["faults"]:
        if isinstance(entry, str):
            faults.append(parse_fault(entry))
        elif isinstance(entry, dict) and isinstance(entry.get("kind"), str):
            given = {str(key): str(value) for key, value in entry.items() if key not in ("kind", "at")}
            faults.append(_fault(entry["kind"], str(entry.get("at", 0)), given))
        else:
            raise ConfigError(f"script {path}: expected a fault such as stall@2:for=3, got {entry!r}")
    return tuple(faults), seed
