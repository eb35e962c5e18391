"""A file that is being downloaded: beside its place, locked, resumable, and put there in one step."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.runtime.card import sha256_of

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


# What flock says on a file system that has none; anything else means that another process has it.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class FolderError(ModelError):
    """The folder of models cannot take the file: no other address would help."""


class Part:
    """``NAME.HASH.part`` beside ``target``; the hash in its name keeps what was begun for another file apart.

    ``size`` bytes are in it, and ``digest`` is theirs. Raises OSError where the folder fails to give
    one; its methods raise FolderError.
    """

    def __init__(self, target: Path, sha256: str) -> None:
        self.target = target
        self._sha256 = sha256
        self.path = target.with_name(f"{_begun(target, sha256)}.part")
        self._file = _open_locked(self.path)
        self._keep = self._file is not None
        self._placed = False
        if self._file is None:
            # Another process is at it. It may be faster or stuck: it is not waited for.
            self.path = self.path.with_suffix(f".{secrets.token_hex(4)}.part")
            self._file = _open_locked(self.path, wait=True)
        if self._file is None:
            # A file system without locks: then nobody takes this part for an abandoned one.
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - close() does
        self.digest = hashlib.sha256()
        self.size = 0
        while chunk := self._file.read(1 << 20):
            self.digest.update(chunk)
            self.size += len(chunk)

    @property
    def resumable(self) -> bool:
        """Whether what is there stays there for the next time."""
        return self._keep and self.size > 0

    def restart(self) -> None:
        """Forget what is there."""
        with self._folder_errors():
            self._file.seek(0)
            self._file.truncate(0)
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Append."""
        with self._folder_errors():
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        self.digest.update(data)
        self.size += len(data)

    def place(self) -> None:
        """Make it the target: what is there at any time is the old file or all of the new one."""
        with self._folder_errors():
            os.fsync(self._file.fileno())
            if sys.platform == "win32":
                self._file.close()
            os.replace(self.path, self.target)
            self._placed = True
            _sync_folder(self.target.parent)

    def drop(self) -> None:
        """Let nothing stay for the next time."""
        self._keep = False

    def close(self) -> None:
        """Leave nothing behind but what is resumable. The lock is held until then.

        What others left that ended without this (SIGKILL) goes too: parts without a lock.
        """
        if sys.platform == "win32":
            self._file.close()
        if not self.resumable:
            self.path.unlink(missing_ok=True)
        sweep(self.target, self._sha256, done=self._placed)
        self._file.close()

    @contextmanager
    def _folder_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.drop()
            raise folder_error(error, self.target.parent) from None


@contextmanager
def part_of(target: Path, sha256: str) -> Iterator[Part | None]:
    """A part to fill; None where the target is there and right. Raises FolderError.

    Folders that had to be made for it are gone again when they stay empty.
    """
    made: list[Path] = []
    try:
        try:
            right = _is_right(target, sha256)
            if target.is_dir():
                raise OSError(errno.EISDIR, f"{target.name} in it is a folder")
            for folder in () if right else reversed([target.parent, *target.parent.parents]):
                if not folder.is_dir():
                    folder.mkdir(exist_ok=True)
                    made.append(folder)
            part = None if right else Part(target, sha256)
        except OSError as error:
            raise folder_error(error, target.parent) from None
        if part is None:
            sweep(target, sha256, done=True)
            yield None
            return
        with closing(part):
            # Asked again now that it is locked: another process may just have finished.
            if _is_right(target, sha256):
                part.drop()
                yield None
            else:
                yield part
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def _is_right(target: Path, sha256: str) -> bool:
    return target.is_file() and sha256_of(target) == sha256


def _open_locked(path: Path, *, wait: bool = False) -> Any:
    """Open and lock the file that has this path; None where another process has it.

    ``wait`` for one that only looks whether it is abandoned. Raises OSError for what is no plain file.
    """
    while True:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, f"{path.name} in it is no plain file")
        file = open(path, "a+b", buffering=0)  # noqa: SIM115 - the caller does
        try:
            if sys.platform == "win32":
                # A byte that no file reaches, because this lock also keeps others from reading.
                file.seek(1 << 60)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            empty = os.fstat(file.fileno()).st_size == 0
            file.close()
            if empty and error.errno in _NO_LOCKS:
                path.unlink(missing_ok=True)
            return None
        # Between opening and locking, another process may have put it in its place, or removed it.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            file.seek(0)
            return file
        file.close()


def _begun(target: Path, sha256: str) -> str:
    return f"{target.name}.{sha256[:12]}"


def sweep(target: Path, sha256: str, *, done: bool) -> None:
    """Remove what ended downloads of this file left; what can be resumed only where the file is ``done``."""
    # A card's file name holds none of the characters that a pattern gives a meaning to.
    for path in target.parent.glob(f"{_begun(target, sha256)}{'' if done else '.'}*.part"):
        # One that cannot be removed is no reason to fail.
        with suppress(OSError):
            file = _open_locked(path)
            if file is None:
                continue
            with file:
                if sys.platform == "win32":
                    file.close()
                path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_error(error: OSError, folder: Path) -> FolderError:
    """What went wrong with a folder, and the remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FolderError(f"no space left in {folder}: free some, or choose another folder (--dir)")
    reason = "it is no folder" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
    return FolderError(f"cannot write to {folder}: {reason}; choose another folder (--dir)")
