"""A file that a command makes: put in its place in one step, and never over what is read."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import SinkOpenError


def same_file(one: Path, other: Path) -> bool:
    """Whether both are one file that is there, by whatever names."""
    try:
        return one.samefile(other)
    except OSError:
        # One is not there, or out of reach: whoever reads or writes it says so.
        return False


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
