"""A file under construction: ``NAME.part`` until it is whole, then ``NAME``."""

from __future__ import annotations

import logging
import os
import sys
from io import SEEK_SET
from pathlib import Path

from pipeline.errors import SinkOpenError
from pipeline.sinks.files import lock, open_output, reason, tell_of_old

_log = logging.getLogger(__name__)


class PartFile:
    """What FFmpeg writes into, through PyAV's file-object protocol.

    Writing through it rather than letting FFmpeg open the path gives the operating system's
    own error, keeps ``:`` and ``%`` in a name from meaning something to FFmpeg, and lets an abort
    skip the trailer. What a killed run left under this name is kept as ``NAME.part.old``.

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
        _keep_old(self.path, shown)
        self._file = open_output(self.path, shown)
        if target.is_file():
            tell_of_old(target.stat().st_size, shown)

    def write(self, data: bytes) -> int:
        """Write all of ``data``, or note why not."""
        view = memoryview(data)
        try:
            while view and self.error is None:
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
        if not self.closed:
            # A network or thinly provisioned disk may say only now that it is full.
            os.fsync(self._file.fileno())
            if sys.platform == "win32":  # which renames no open file
                self.close()
            os.replace(self.path, self.target)
            self.close()

    def close(self) -> None:
        """Take no more; the file keeps the name of a part."""
        self.closed = True
        self._file.close()

    def remove(self) -> None:
        """Close and delete it."""
        self.close()
        self.path.unlink(missing_ok=True)


def _keep_old(part: Path, shown: str) -> None:
    """Put aside what a run that was killed left: it can be played. Raises SinkOpenError."""
    try:
        if part.is_file() and part.stat().st_size:
            with part.open("rb") as left:
                lock(left.fileno())
            old = part.with_name(part.name + ".old")
            os.replace(part, old)
            _log.warning("an earlier run did not finish %s; what it wrote is kept as %s", shown, old)
    except BlockingIOError as error:
        raise SinkOpenError(f"cannot write {shown}: {reason(error)}") from error
    except OSError as error:
        raise SinkOpenError(
            f"cannot write {shown}: what an earlier run left in {part} cannot be put aside: {reason(error)}"
        ) from error
