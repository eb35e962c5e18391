"""The words of this room: what a source is, and what comes out of one."""

from __future__ import annotations

from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol, Self

from pipeline.frame import Decoded, Image


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One decoded picture.

    ``pixels`` are uint8 [height, width, 3], BGR, C-contiguous and the receiver's own: no source
    writes to them again; those of a video are not converted yet. ``pts`` counts ``time_base``
    seconds; both are None where the source has no clock. ``decode_seconds`` is what video decode
    of this picture took; waiting for data is not in it. ``name`` is that of a file with this
    picture alone. ``damaged``: the decoder says that it is. ``decoded_at`` is monotonic seconds, where it
    lay somewhere since; None: just now. ``key``: it was coded by itself, not as a difference from others.
    """

    pixels: Image | Decoded
    pts: int | None
    time_base: Fraction | None
    decode_seconds: float
    name: str | None = None
    damaged: bool = False
    decoded_at: float | None = None
    key: bool = True

    @property
    def image(self) -> Image:
        """The picture itself; see ``Frame.image``."""
        return self.pixels.bgr() if isinstance(self.pixels, Decoded) else self.pixels


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One of many pictures that could not be read; it still takes a frame number."""

    reason: str
    """One line, redacted."""


@dataclass(frozen=True, slots=True)
class Missed:
    """A live picture for which there was no room before it got here; it still takes a frame number."""


class Source(Protocol):
    """Where pictures come from; a context manager.

    ``live`` is True for a source that delivers in real time by itself (a camera, RTSP, live
    HTTP) and False for one that waits to be read (a file). ``description`` says codec, size,
    frame rate and transport for the log, redacted; it is another text, and ``declared_fps`` may be another
    number, where they change in mid-stream.
    """

    live: bool
    description: str
    frame_count: int | None
    """How many pictures there will be, where the source says so beforehand."""
    declared_fps: float | None
    """How many pictures a second it says that it delivers; None where it does not say."""

    @property
    def corrupt_packets(self) -> int:
        """Packets that the decoder refused, that lack data, or came twice."""
        ...

    def __iter__(self) -> Iterator[Picture | Unreadable | Missed]:
        """Yield the pictures in order of presentation, once: a second call raises RuntimeError.

        Raises SourceReadError when the source dies or ends before its time.
        """
        ...

    def close(self) -> None:
        """Release the source. To be called by the thread that iterates; twice does no harm."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


@dataclass(slots=True)
class Remembered:
    """What opening a source taught about it, for the next time: kept by whoever opens it again."""

    transport: str = ""
    """Over which of tcp and udp an RTSP server was reached."""
    live: bool = False
    """It had no end: one that it has now is not that of the stream."""
    seen: list[int] = field(default_factory=list)
    """What tells the last packets of a playlist; see :class:`pipeline.sources.playlist.Repeats`."""

    def told(self) -> dict[str, Any]:
        """The same for another process, as JSON: 4 bytes of each in ``seen``, since a message has a limit."""
        seen = b64encode(array("I", self.seen).tobytes()).decode()
        return {"transport": self.transport, "live": self.live, "seen": seen}

    def learn(self, told: dict[str, Any]) -> None:
        """Take over what another process ``told``. Raises ValueError, TypeError, KeyError."""
        seen = array("I", b64decode(told["seen"], validate=True)).tolist()
        self.transport, self.live, self.seen = str(told["transport"]), bool(told["live"]), seen


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """What a source's text means.

    ``kind`` is a name in the table of openers, ``address`` what that opener takes,
    ``default_name`` a name for the stream. ``live`` is None where only opening tells (HTTP).
    ``address`` may hold a password: it is left out of ``repr``.
    """

    kind: str
    address: str
    default_name: str
    live: bool | None

    def __repr__(self) -> str:
        return f"SourceSpec({self.kind!r}, {self.default_name!r}, live={self.live})"
