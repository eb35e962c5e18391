"""A file that a command makes: put in its place in one step, and never over what is read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pipeline.errors import SinkOpenError


def same_file(one: Path, other: Path) -> bool:
    """Whether both are one file that is there, by whatever names."""
    try:
        return one.samefile(other)
    except OSError:
        # One is not there, or out of reach: whoever reads or writes it says so.
        return False


def check_place(target: Path) -> None:
    """Raise SinkOpenError now where :func:`place` would, as far as can be told before."""
    final = Path(os.path.realpath(target))
    why = "it is a folder" if final.is_dir() else ""
    why = why or ("" if final.parent.is_dir() else f"there is no folder {final.parent}")
    if not why:
        try:
            # Permission bits don't tell (root, ACLs, network and read-only file systems): make one.
            with tempfile.TemporaryFile(dir=final.parent):
                return
        except OSError as error:
            why = f"the folder {final.parent} cannot be written to ({error.strerror})"
    raise SinkOpenError(f"cannot write {target}: {why}; choose another name")


def place(data: bytes, target: Path) -> None:
    """Write a file in one step: what is there at any time is the old one or all of the new one.

    Raises SinkOpenError.
    """
    final = Path(os.path.realpath(target))
    part = final.with_name(f"{final.name}.{os.getpid()}.part")
    try:
        if final.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(final)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise SinkOpenError(f"cannot write {target}: {error.strerror or error}") from None
