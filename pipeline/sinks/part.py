"""A file under construction: ``NAME.part`` until it is whole, then ``NAME``."""

from __future__ import annotations

import os
from io import SEEK_SET
from pathlib import Path

from pipeline.sinks.files import open_output


class PartFile:
    """What FFmpeg writes into, through PyAV's file-object protocol.

    Writing through it rather than letting FFmpeg open the path gives the operating system's
    own error, keeps ``:`` and ``%`` in a name from meaning something to FFmpeg, lets an abort
    skip the trailer, and releases the GIL while a long file's index is moved to its front.

    The first error is kept in ``error`` and everything after it is thrown away, not raised:
    FFmpeg holds back errors until a later call and PyAV prints those that it cannot raise.
    Whoever muxes looks at ``error``. Raises SinkOpenError at construction.
    """

    def __init__(self, target: Path, shown: str) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.name = str(self.path)
        """What the MP4 muxer opens for reading when it moves the index to the front."""
        self.error: OSError | None = None
        self.closed = False
        """PyAV writes no trailer into a closed file."""
        if os.path.isdir(target):
            open_output(target, shown)  # raises, and says why
        self._file = open_output(self.path, shown)

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
            self.close()
            os.replace(self.path, self.target)

    def close(self) -> None:
        """Take no more; the file keeps the name of a part."""
        self.closed = True
        self._file.close()

    def remove(self) -> None:
        """Close and delete it."""
        self.close()
        self.path.unlink(missing_ok=True)
