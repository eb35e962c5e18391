"""Credentials by reference: ``${NAME}`` and ``${file:/path}`` in a source, so that no config need hold them.

``$${`` is the text ``${`` itself. What a reference stands for counts as secret: it is masked wherever text
leaves the process (:mod:`pipeline.redact`), and so is never part of an error here.
"""

from __future__ import annotations

import os
import re

from pipeline import smallfile
from pipeline.errors import ConfigError
from pipeline.redact import conceal, protect

MOST_BYTES = 1 << 20
"""Of a file that is referred to, or that lists sources."""
_files: set[str] = set()
"""Those that were referred to."""
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<inside>[^{}]*)(?P<end>\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def resolved(text: str, where: str) -> str:
    """``text`` with its references replaced by what they stand for, once: that is not looked into again.

    ``where`` begins the message of a ConfigError, which is raised for a variable that is not set, a file
    that cannot be read, and a reference that is neither.
    """
    found = _REFERENCE.sub(lambda match: _value(match, where), text)
    if found != text:
        protect(found)
    return found


def files_referred_to() -> list[str]:
    """The files from which secrets and sources were read in this process: to be kept from outputs."""
    return sorted(_files)


def sources_in(path: str) -> list[str]:
    """The sources that a file lists, one a line; blank lines and those that begin with # say nothing.

    Each may have references. Raises ConfigError.
    """
    where = f"--source-file {path}"
    sources = []
    for number, line in enumerate(_text(path, where).splitlines(), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            protect(line)
            sources.append(resolved(line, f"{where}, line {number}"))
    if not sources:
        raise ConfigError(f"{where}: it lists no source; expected one a line")
    return sources


def _value(match: re.Match[str], where: str) -> str:
    inside = match["inside"]
    if inside is None:
        return "${"
    if not match["end"]:
        raise ConfigError(
            f"{where}: a reference is not closed; expected ${{NAME}}, or $${{ for the text itself"
        )
    if inside.startswith("file:"):
        value = _secret_in(inside.removeprefix("file:"), where)
    elif _NAME.fullmatch(inside):
        value = os.environ.get(inside, "")
        if not value:
            state = "is empty" if inside in os.environ else "is not set"
            raise ConfigError(
                f"{where}: the environment variable {inside!r} {state}; set it, or write $${{ for the text "
                "itself"
            )
    else:
        raise ConfigError(
            f"{where}: {f'${{{inside}}}'!r} is no reference; expected ${{NAME}} of an environment variable "
            "or ${file:/path}, or $${ for the text itself"
        )
    # A whole address has a host and a path that need not be masked; its secrets are found by their form.
    if not (match.start() == 0 and "://" in value):
        conceal(value)
    return value


def _secret_in(path: str, where: str) -> str:
    if not os.path.isabs(path):
        raise ConfigError(
            f"{where}: a reference to a file: expected an absolute path, such as ${{file:/run/secrets/cam}}"
        )
    # Without its ${file:}: where that stands in a password's place it is masked as one.
    text = _text(path, f"{where}: the file {path!r}").removesuffix("\n").removesuffix("\r")
    if not text or "\n" in text:
        lines = "none" if not text else str(text.count("\n") + 1)
        raise ConfigError(f"{where}: the file {path!r}: expected one line of text in it, got {lines}")
    return text


def _text(path: str, where: str) -> str:
    try:
        data = smallfile.read(named := os.path.expanduser(path), MOST_BYTES)
        _files.add(named)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{where}: it has more than {MOST_BYTES >> 20} MiB; expected a few lines of text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: it is not UTF-8 text") from None
