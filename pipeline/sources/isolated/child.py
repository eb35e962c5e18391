"""What runs in the child: it opens the source, and puts its pictures into slots."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from av.video.frame import VideoFrame

from pipeline.errors import PipelineError, SourceOpenError
from pipeline.memory import set_malloc
from pipeline.redact import protect, redact
from pipeline.sources import OPENERS, fflog, open_source
from pipeline.sources.base import Missed, Picture, Remembered, Source, SourceSpec, Unreadable
from pipeline.sources.isolated import planes
from pipeline.sources.isolated.slots import TAKEN, Slots
from pipeline.sources.limits import most_memory

if TYPE_CHECKING:
    from pipeline.config import StreamConfig

AHEAD = 2
"""Pictures that nobody has taken yet, of a source that waits to be read: more would be memory for nothing."""
_LONGEST_LOG = 4000


class _Gone(Exception):  # noqa: N818  (no error: nobody is there to read)
    """No more pictures are wanted."""


class Child:
    """One source, and what the parent is told of it."""

    def __init__(self, commands: int, messages: int, said: dict[str, Any]) -> None:
        """``said`` is what the parent's first message says; see :mod:`pipeline.sources.isolated.parent`."""
        self._messages = socket.socket(fileno=messages)
        self._commands = commands
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._slots: Slots | None = None
        self._generation = 0
        self._untaken = 0
        self._missed = self._corrupt = 0
        self._declared = ""
        """The source's description, as the parent was told last."""
        self._proof = planes.Proof()
        self._spec = SourceSpec(**said["spec"])
        self._stream, self._drops = _stream(said), bool(said["drops"])
        self._remembered = Remembered()
        self._remembered.learn(said["remembered"])
        protect(self._spec.address)
        logging.getLogger().addHandler(_Forward(self))
        logging.getLogger().setLevel(said["log_level"])
        if said["ffmpeg_log"] is not None:
            fflog.route_ffmpeg_log(said["ffmpeg_log"])

    def tell(self, message: dict[str, Any], files: list[int] | None = None) -> None:
        """Send a message, and with it ``files``. Raises _Gone when nobody reads any more."""
        data = json.dumps(message).encode()
        try:
            if files:
                socket.send_fds(self._messages, [data], files)
            else:
                self._messages.send(data)
        except (BrokenPipeError, ConnectionResetError):
            self._stop.set()
            raise _Gone from None

    def run(self) -> None:
        """Open the source, and send what comes of it."""
        # Never joined: it sits in a read that ends with the process, or ends the process's work.
        threading.Thread(target=self._listen, name="commands", daemon=True).start()
        try:
            with open_source(self._spec, self._stream, self._stop, self._remembered) as source:
                self._declared = source.description
                opened = [source.live, source.description, source.frame_count, source.declared_fps]
                self.tell({"opened": opened, "remembered": self._remembered.told()})
                try:
                    for picture in source:
                        self._send(source, picture)
                        if self._stop.is_set():
                            return
                finally:
                    self._corrupt = source.corrupt_packets
            self.tell({
                "end": True, "corrupt": self._corrupt, "missed": self._missed,
                "remembered": self._remembered.told(),
            })  # fmt: skip
        except _Gone:
            return
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        kind = "open" if isinstance(error, SourceOpenError) else "read"
        text, cause = str(error), getattr(error, "cause", "error")
        if not isinstance(error, PipelineError):
            logging.getLogger(__name__).error("a source failed in its process", exc_info=error)
            text = f"{redact(self._spec.address)}: {type(error).__name__}: {error}"
        try:
            self.tell({
                "error": [kind, text, cause], "missed": self._missed, "corrupt": self._corrupt,
                "remembered": self._remembered.told(),
            })  # fmt: skip
        except _Gone:
            return

    def _listen(self) -> None:
        """Read what the parent says: pairs of bytes, the memory's generation and a slot, or TAKEN."""
        while said := os.read(self._commands, 4096):
            with self._changed:
                for generation, slot in zip(said[::2], said[1::2], strict=True):
                    if slot == TAKEN:
                        self._untaken -= 1
                    elif generation == self._generation & 0xFF and self._slots is not None:
                        self._slots.free.add(slot)
                self._changed.notify()
        self._stop.set()
        with self._changed:
            self._changed.notify()

    def _send(self, source: Source, picture: Picture | Unreadable | Missed) -> None:
        if isinstance(picture, Missed):  # told with the next one
            self._missed += 1
            return
        told: dict[str, Any] = {"corrupt": source.corrupt_packets, "missed": self._missed}
        if source.description is not self._declared:
            told["declared"] = [source.description, source.declared_fps]
        waits = not (source.live and self._drops)
        if isinstance(picture, Unreadable):
            if waits:
                self._wait(lambda: self._untaken < AHEAD)
            with self._changed:
                self._untaken += 1
            self.tell({**told, "unreadable": picture.reason})
            self._missed = 0
            return
        at = picture.decoded_at
        if at is None and source.live:
            at = time.monotonic()
        content, layout = self._proof.content(picture)
        files = self._provide(layout.nbytes)
        assert self._slots is not None
        free = self._slots.free
        if waits:
            self._wait(lambda: bool(free) and self._untaken < AHEAD)
        with self._changed:
            slot = min(free, default=None)
            if slot is None:
                self._missed += 1
                return
            free.remove(slot)
            self._untaken += 1
        memory = self._slots.memory(slot, layout.nbytes)
        if isinstance(content, VideoFrame):
            planes.write(content, memory)
        else:
            memory[:] = content.reshape(-1)
        time_base = picture.time_base
        self.tell(
            {
                **told,
                "picture": [
                    slot, layout.told(), picture.pts,
                    None if time_base is None else [time_base.numerator, time_base.denominator],
                    picture.decode_seconds, picture.name, picture.damaged, at, picture.key,
                ],
                **({"each": self._slots.each} if files else {}),
            },
            files,
        )  # fmt: skip
        self._missed, self._declared = 0, source.description
        if files:
            self._slots.close()

    def _provide(self, nbytes: int) -> list[int]:
        """See to memory whose slots hold so much; its file, where it is new."""
        if self._slots is not None and nbytes <= self._slots.each:
            return []
        with self._changed:
            self._generation += 1
            self._slots = Slots(nbytes)
        return [self._slots.file]

    def _wait(self, ready: Any) -> None:
        with self._changed:
            self._changed.wait_for(lambda: ready() or self._stop.is_set())
        if self._stop.is_set():
            raise _Gone


def _stream(said: dict[str, Any]) -> StreamConfig:
    """The stream's config, which the parent has checked; where the source reads plain keys alone, as such.

    Pydantic would take a fifth of the start, and of the memory.
    """
    if OPENERS[said["spec"]["kind"]][0] == "media":
        return cast("StreamConfig", SimpleNamespace(**said["stream"], isolate=False))
    from pipeline.config import StreamConfig

    return StreamConfig.model_validate(said["stream"])


class _Forward(logging.Handler):
    """Hands log records to the parent, whose handlers they are meant for."""

    def __init__(self, child: Child) -> None:
        super().__init__()
        self._child = child

    def emit(self, record: logging.LogRecord) -> None:
        """Send it, redacted."""
        text = redact(self.format(record))[:_LONGEST_LOG]
        try:
            self._child.tell({"log": [record.name, record.levelno, text, record.created]})
        except _Gone:
            return  # the parent closed this source; its last words concern nobody


def die_with_parent(life: int) -> None:
    """Have the kernel kill this process when the pipe's other end closes: whatever it is busy with then."""
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:  # it was closed before
        os._exit(1)


def limit_memory(most: int) -> None:
    """Have the kernel refuse this process more memory of its own than ``most`` bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def main(commands: int, messages: int, life: int, said: dict[str, Any]) -> None:
    """The whole of the process. ``life`` is the read end of a pipe that ends with the parent."""
    die_with_parent(life)
    stream = said["stream"]
    limit_memory(most_memory(stream["max_picture"], stream["decode_threads"]))
    set_malloc()
    try:
        Child(commands, messages, said).run()
        code = 0
    except BaseException:
        # Told on standard error, as by the interpreter: the parent reports that its child ended.
        sys.excepthook(*sys.exc_info())
        code = 1
    # No interpreter is taken apart under threads of FFmpeg.
    os._exit(code)
