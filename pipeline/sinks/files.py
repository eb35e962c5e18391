"""Opening output files, and the reasons why it fails in words that say what to do."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from io import FileIO
from pathlib import Path

from pipeline.errors import SinkOpenError

if sys.platform != "win32":
    import fcntl

_log = logging.getLogger(__name__)

_FULL = "no space left on the device"
_REASONS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the largest size allowed (ulimit -f, or the file system's own)",
    errno.EPIPE: "the reader went away",
    errno.EWOULDBLOCK: "another run is writing it; choose another name, or end that one",
    errno.ENXIO: "no program reads from this pipe yet; start the reader first",
    errno.EIO: "the device reports an input/output error",
    errno.EACCES: "permission denied; choose a folder that this user may write to",
    errno.EPERM: "permission denied; choose a folder that this user may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EISDIR: "it is a folder; give the name of a file in it",
    errno.ENAMETOOLONG: "the name is too long",
}


def reason(error: OSError) -> str:
    """Say in a few words why an output failed, without the path."""
    known = _REASONS.get(error.errno) if error.errno is not None else None
    return known or error.strerror or str(error) or type(error).__name__


def open_output(path: str | Path, shown: str) -> FileIO:
    """Open ``path`` unbuffered for writing, replacing what is there unless another run is writing that.

    ``shown`` is what the message calls it. Raises SinkOpenError with the remedy.
    """

    def opener(path: str, flags: int) -> int:
        descriptor = _open_at_once(path, flags & ~os.O_TRUNC)
        try:
            found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode):
                lock(descriptor)
                tell_of_old(found.st_size, shown)
                os.ftruncate(descriptor, 0)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    try:
        return FileIO(path, "wb", opener=opener)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise SinkOpenError(f"cannot write {shown}: {_why_not(Path(path), error)}") from error


def lock(descriptor: int) -> None:
    """Keep other runs from writing a file while it is open. Raises BlockingIOError where one does so."""
    if sys.platform == "win32":
        return  # where nobody replaces a file that is open
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
            raise


def tell_of_old(size: int, shown: str) -> None:
    """Say in the log that what is there goes: a service that is started again takes the same names."""
    if size:
        _log.warning("%s, %s bytes of an earlier run, is replaced by this one's", shown, f"{size:,}")


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a named pipe that nobody reads is an error, not a wait that ignores Ctrl-C."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def check_folder(path: Path, shown: str) -> None:
    """Prove that a file can be made in the folder of ``path``. Raises SinkOpenError."""
    try:
        # Permission bits don't tell (root, ACLs, network and read-only file systems): make one.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except (OSError, ValueError) as error:
        raise SinkOpenError(f"cannot write {shown}: {_why_not(path, error)}") from error


def check_distinct(inputs: Iterable[str], outputs: Iterable[tuple[str, str]]) -> None:
    """Raise SinkOpenError for an output that would overwrite an input or another output.

    ``outputs`` are (option, path). Paths are compared as files, through links of both kinds.
    """
    taken = {_identity(path): f"the source {path}" for path in inputs}
    for option, path in outputs:
        # Most are written as NAME.part first.
        identities = [_identity(path), _identity(f"{path}.part")]
        for identity in identities:
            if identity in taken:
                raise SinkOpenError(
                    f"cannot write {option} {path}: it would overwrite {taken[identity]}; choose another name"
                )
        if os.path.isfile(path) or not os.path.exists(path):  # /dev/null may be shared
            taken.update(dict.fromkeys(identities, f"what {option} writes"))


def _identity(path: str) -> object:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def _why_not(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR):
        folder = path.parent
        if not os.path.lexists(folder):
            return f"the folder {folder} does not exist; create it first"
        if not os.path.isdir(folder):
            return f"{folder} is not a folder"
    return reason(error) if isinstance(error, OSError) else str(error)
