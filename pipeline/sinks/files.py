"""Opening output files, and the reasons why it fails in words that say what to do."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
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

# What flock says on a file system that has none.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF)


def reason(error: OSError) -> str:
    """Say in a few words why an output failed, without the path."""
    known = _REASONS.get(error.errno) if error.errno is not None else None
    return known or error.strerror or str(error) or type(error).__name__


def open_output(path: str | Path, shown: str) -> FileIO:
    """Open ``path`` unbuffered for writing, replacing what is there unless another run is writing that.

    ``shown`` is what the message calls it. Raises SinkOpenError with the remedy.
    """
    with refused(path, shown):
        file = open_alone(path)
        try:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode):
                tell_of_old(found.st_size, shown)
                file.truncate(0)
        except OSError:
            file.close()
            raise
        return file


def own_descriptor(path: str | Path) -> int | None:
    """N where ``path`` is /dev/fd/N, /dev/stdout or a link to such: what this process has open already.

    Opened anew, a file would be emptied and written from its begin; replaced, the link would be lost.
    """
    ours = {os.path.realpath(folder) for folder in ("/dev/fd", "/proc/self/fd")}
    step = os.fspath(path)
    for _ in range(40):  # as many links as Linux follows
        folder, name = os.path.split(step)
        if name.isdecimal() and os.path.realpath(folder) in ours:
            return int(name)
        if not os.path.islink(step):
            break
        step = os.path.join(folder, os.readlink(step))
    return None


def open_own(descriptor: int, shown: str) -> FileIO:
    """A file of our own on one of the process's descriptors: closing it leaves that open, and what is written
    comes after what was. Raises SinkOpenError."""
    standard = {1: sys.stdout, 2: sys.stderr}
    try:
        if descriptor in standard:
            if (stream := standard[descriptor]) is None:  # what has its number is another file
                raise SinkOpenError(f"cannot write {shown}: it is closed; give a file's name instead")
            stream.flush()
        os.write(descriptor, b"")  # refused where it is for reading
        return FileIO(os.dup(descriptor), "wb")
    except SinkOpenError:
        raise
    except OSError as error:
        raise SinkOpenError(f"cannot write {shown}: {reason(error)}; give a file's name instead") from error


@contextmanager
def refused(path: str | Path, shown: str) -> Iterator[None]:
    """What the system has against ``path``, as a SinkOpenError with the remedy."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise SinkOpenError(f"cannot write {shown}: {_why_not(Path(path), error)}") from error


def open_alone(path: str | Path) -> FileIO:
    """Open ``path`` unbuffered for writing, with what is there; no other run has it until it is closed.

    A name belongs to the run that has locked what bears it, so that may be renamed and removed by its name:
    ``move`` and ``remove``. Raises BlockingIOError where another run has it, OSError, ValueError.
    """
    while True:
        file = FileIO(path, "wb", opener=_open_at_once)
        try:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            _lock(file.fileno())
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    return file
        except OSError:
            file.close()
            raise
        file.close()  # between opening and locking, the run before has given it its final name, or removed it


def taken(path: Path) -> bool:
    """Whether another run has what bears this name now."""
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False  # there is none, or none that could be written
    try:
        _lock(descriptor)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def move(file: FileIO, path: Path, target: Path) -> None:
    """Rename what was opened alone; it stays locked until it is closed."""
    if sys.platform == "win32":  # which renames no open file, and where nobody replaces one
        file.close()
    os.replace(path, target)


def remove(file: FileIO, path: Path) -> None:
    """Delete and close what was opened alone."""
    if sys.platform == "win32":
        file.close()
    path.unlink(missing_ok=True)
    file.close()


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def tell_of_old(size: int, shown: str) -> None:
    """Say in the log that what is there goes: a service that is started again takes the same names."""
    if size:
        _log.warning("%s, %s bytes of an earlier run, is replaced by this one's", shown, f"{size:,}")


def _open_at_once(path: str, flags: int) -> int:
    """Open as it is, without waiting: a pipe that nobody reads is an error, no wait that ignores Ctrl-C."""
    descriptor = os.open(path, flags & ~os.O_TRUNC | getattr(os, "O_NONBLOCK", 0), 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def check_folder(path: Path, shown: str) -> None:
    """Prove that a file can be made in the folder of ``path``. Raises SinkOpenError."""
    # Permission bits don't tell (root, ACLs, network and read-only file systems): make one.
    with refused(path, shown), tempfile.TemporaryFile(dir=path.parent):
        pass


def check_distinct(inputs: Iterable[str], outputs: Iterable[tuple[str, str]]) -> None:
    """Raise SinkOpenError for an output that would overwrite an input or another output.

    ``outputs`` are (option, path). Paths are compared as files, through links of both kinds.
    """
    taken = {_identity(path): f"{path}, which is read" for path in inputs}
    for option, path in outputs:
        # Most are written as NAME.part first, beside the file that a link leads to; what a killed run left of
        # a video becomes NAME.part.old.
        suffixes = (".part", ".part.old") if option == "--video" else (".part",)
        identities = [_identity(path), *(_identity(_real(path) + suffix) for suffix in suffixes)]
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
        return _real(path)
    return found.st_dev, found.st_ino


def _real(path: str) -> str:
    return path if "\0" in path else os.path.realpath(path)


def _why_not(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR):
        folder = path.parent
        if not os.path.lexists(folder):
            return f"the folder {folder} does not exist; create it first"
        if not os.path.isdir(folder):
            return f"{folder} is not a folder"
    return reason(error) if isinstance(error, OSError) else str(error)
