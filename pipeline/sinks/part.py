"""A file under construction: ``NAME.part`` until it is whole, then ``NAME``."""

from __future__ import annotations

import errno
import logging
import os
from io import SEEK_SET, FileIO
from pathlib import Path

from pipeline.errors import SinkOpenError
from pipeline.sinks.files import (
    move,
    open_alone,
    open_output,
    reason,
    refused,
    remove,
    taken,
    tell_of_old,
)

_log = logging.getLogger(__name__)


class PartFile:
    """What FFmpeg writes into, through PyAV's file-object protocol.

    Writing through it rather than letting FFmpeg open the path gives the operating system's
    own error, keeps ``:`` and ``%`` in a name from meaning something to FFmpeg, and lets an abort
    skip the trailer. What a killed run left under this name is kept as ``NAME.part.old``. No other run
    is let in before ``close``: until then the file is locked, whichever of the two names it has.

    The first error is kept in ``error`` and everything after it is thrown away, not raised:
    FFmpeg holds back errors until a later call and PyAV prints those that it cannot raise.
    Whoever muxes looks at ``error``. Raises SinkOpenError at construction.
    """

    def __init__(self, target: Path, shown: str) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.name = str(self.path)
        """What FFmpeg calls it in its messages."""
        self.error: OSError | None = None
        self.closed = False
        """PyAV writes no trailer into a closed file."""
        if os.path.isdir(target):
            open_output(target, shown)  # raises, and says why
        if os.path.exists(target) and not os.path.isfile(target):
            raise SinkOpenError(
                f"cannot write {shown}: it is no file but a pipe or a device, which the finished file would "
                "replace; choose another name"
            )
        self._file = _begun(self.path, shown)
        if taken(target):  # finished by another run, which is moving its index
            self.remove()
            with refused(target, shown):
                raise BlockingIOError(errno.EAGAIN, "")
        if target.is_file():
            tell_of_old(target.stat().st_size, shown)

    def write(self, data: bytes) -> int:
        """Write all of ``data``, or note why not."""
        view = memoryview(data)
        try:
            while view and self.error is None and not self.closed:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            self.error = error
        return len(data)

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move to ``offset``."""
        return offset if self.error is not None else self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._file.tell()

    def check(self) -> None:
        """Raise the first error of writing, if there was one."""
        if self.error is not None:
            raise self.error

    def commit(self) -> None:
        """Give the finished file its name. Raises OSError; then the part file stays."""
        # A network or thinly provisioned disk may say only now that it is full.
        os.fsync(self._file.fileno())
        move(self._file, self.path, self.target)
        self.closed = True

    def stop(self) -> None:
        """Take no more."""
        self.closed = True

    def close(self) -> None:
        """Take no more, and let other runs have the name; the file keeps the one that it has."""
        self.closed = True
        self._file.close()

    def remove(self) -> None:
        """Close and delete it."""
        self.closed = True
        remove(self._file, self.path)


def _begun(part: Path, shown: str) -> FileIO:
    """Open ``part``, empty, and put aside what a killed run left: it can be played. Raises SinkOpenError."""
    while True:
        with refused(part, shown):
            if part.is_symlink() or (part.exists() and not part.is_file()):
                raise SinkOpenError(f"cannot write {shown}: {part} is in its way, and no file; remove it")
            try:
                file = open_alone(part)
            except PermissionError as error:
                if not part.is_file():
                    raise
                raise SinkOpenError(
                    f"cannot write {shown}: an earlier run, of another user, left {part}, which this one may "
                    "not write; move that away, or choose another name"
                ) from error
        if not os.fstat(file.fileno()).st_size:
            return file
        old = part.with_name(part.name + ".old")
        try:
            move(file, part, old)
        except OSError as error:
            raise SinkOpenError(
                f"cannot write {shown}: what an earlier run left in {part} cannot be put aside: "
                f"{reason(error)}"
            ) from error
        finally:
            file.close()
        _log.warning("an earlier run did not finish %s; what it wrote is kept as %s", shown, old)
