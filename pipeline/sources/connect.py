"""Opening a container: which options bound the wait, TCP before UDP, and which stream to read."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.errors import SourceOpenError
from pipeline.redact import redact
from pipeline.sources.base import Remembered, SourceSpec
from pipeline.sources.failures import explain, whatever_transport
from pipeline.sources.hardware import Decoding, NoHardwareError, choose
from pipeline.sources.limits import MOST_TRACKS, PROTOCOLS, too_large
from pipeline.sources.pipe import Pipe
from pipeline.sources.segments import is_playlist, refusal
from pipeline.sources.tls import distrust, tls_options, unverified_playlist

if TYPE_CHECKING:
    from pipeline.config import StreamConfig

LOG = logging.getLogger(__name__)

# Options that bound a wait, in microseconds, by scheme. FFmpeg ignores unknown ones in silence,
# so each was tried against a silent server (FFmpeg 8.1; not srt, which PyAV's wheel lacks). rtmp
# and tcp take "timeout" too, but as "listen for a client"; rtp has none.
_TIMEOUT_OPTION = {
    "rtsp": "timeout",
    "rtsps": "timeout",
    "http": "rw_timeout",
    "https": "rw_timeout",
    "rtmp": "rw_timeout",
    "rtmps": "rw_timeout",
    "tcp": "rw_timeout",
    "udp": "timeout",
    "srt": "timeout",
}
_LOOK_SECONDS = 5.0
"""Of a stream, at most, to find out what it holds: FFmpeg's own limit for most formats."""
PLAYLISTS = frozenset({"hls", "dash"})
_TEXT_ART = frozenset({"ansi", "bintext", "idf", "xbin"})


@dataclass(frozen=True, slots=True)
class Opened:
    """A container that has video, and how it was reached."""

    container: InputContainer
    video: VideoStream
    scheme: str
    """Empty for a file."""
    transport: str
    """tcp or udp for RTSP, else empty."""
    decoding: Decoding
    pipe: Pipe | None = None
    """What the container reads, where that is a named pipe; to be closed after it."""


def connect(spec: SourceSpec, stream: StreamConfig, stop: threading.Event, remembered: Remembered) -> Opened:
    """Open a file or an address. Raises SourceOpenError.

    Takes up to ``stream.open_timeout`` to connect, all tries together, and again as long to find
    out what the stream holds; of a playlist that fails some seconds more, to find out why.
    """
    scheme = spec.address.partition("://")[0].lower() if spec.kind != "file" else ""
    transports: tuple[str, ...] = ("",)
    if scheme in ("rtsp", "rtsps"):
        auto = stream.rtsp_transport == "auto"
        transports = ("tcp", "udp") if auto else (stream.rtsp_transport,)
        if auto and remembered.transport == "udp":
            transports = ("udp", "tcp")
        if scheme == "rtsps":
            transports = ("tcp",)  # FFmpeg has no other for it, whatever it is told
    try:
        decoding = choose(stream.hwdecode)
    except NoHardwareError as error:
        raise SourceOpenError(f"cannot open {spec.address}: {error}", cause="hardware") from None
    deadline = time.monotonic() + stream.open_timeout
    failures: list[tuple[str, str]] = []
    for transport in transports:
        if failures:
            if deadline <= time.monotonic() or stop.is_set():
                break
            # Not louder: this is said again at each try, for as long as a camera is away.
            _tell(logging.DEBUG, "it is tried", spec, transports, failures[-1][1])
        left = max(deadline - time.monotonic(), 0.01)
        outcome = _try(spec, scheme, transport, stream, decoding, stop, left)
        if isinstance(outcome, Opened):
            if failures:  # once, as this one comes first the next time
                _tell(logging.WARNING, "it is read", spec, transports, failures[-1][1])
            remembered.transport = transport
            return outcome
        failures.append(outcome)
        if whatever_transport(outcome):
            break
    said = f"; then over {transports[-1].upper()}: ".join(phrase for _, phrase in failures)
    raise SourceOpenError(f"cannot open {spec.address}: {said}", cause=failures[-1][0])


def _tell(level: int, what: str, spec: SourceSpec, transports: tuple[str, ...], phrase: str) -> None:
    before, now = (each.upper() for each in transports)
    LOG.log(level, "%s: %s over %s; over %s: %s", redact(spec.address), what, now, before, phrase)


def _try(
    spec: SourceSpec,
    scheme: str,
    transport: str,
    stream: StreamConfig,
    decoding: Decoding,
    stop: threading.Event,
    open_timeout: float,
) -> Opened | tuple[str, str]:
    """Open once: what was opened, or the cause and a phrase."""
    # Also of the decoders that find out what the stream holds.
    options = {"protocol_whitelist": PROTOCOLS[scheme], "max_pixels": str(stream.max_picture)}
    options["max_streams"] = str(MOST_TRACKS + 1)
    # An encoder that begins anew may number its tracks anew: the video is the same one (of MPEG-TS).
    options["merge_pmt_versions"] = "1"
    options |= tls_options(scheme, stream)
    timeout: tuple[float, float] | None = None
    if scheme:
        # FFmpeg has one limit for opening and reading, so it gets the longer one; PyAV's own
        # holds each to the second. (PyAV's takes the GIL at each poll, so it is the backstop.)
        timeout = (open_timeout, stream.stall_timeout)
        if option := _TIMEOUT_OPTION.get(scheme):
            options[option] = str(int(max(timeout) * 1e6))
        # Don't wait for 20 frames to guess a frame rate (measured at 15 fps, over HTTP: opens 1.3 s sooner).
        options["fpsprobesize"] = "0"
        # Looking that the time limit ends leaves a container whose next read fails at once.
        options["analyzeduration"] = str(int(min(_LOOK_SECONDS, open_timeout / 2) * 1e6))
    if transport:
        options["rtsp_transport"] = transport
        options["allowed_media_types"] = "video"
    # With a prefix, a colon or a % in a file's name means nothing to FFmpeg.
    address: str | Pipe = spec.address if scheme else f"file:{spec.address}"
    pipe = None
    if not scheme and Path(spec.address).is_fifo():
        address = pipe = Pipe(spec.address, stop, open_timeout)
    begun = time.monotonic()
    try:
        container = av.open(
            address,
            "r",
            options=options,
            timeout=timeout,
            metadata_errors="replace",
            hwaccel=decoding.device(),
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if pipe is not None:
            pipe.close()
            if pipe.why is not None:
                return pipe.why
        waited = time.monotonic() - begun
        why = distrust(error, spec.address, scheme, stream, open_timeout - waited)
        if why:
            return "certificate", why
        said = explain(error, remote=bool(scheme), opening=spec.address, waited=waited, limit=open_timeout)
        return (is_playlist(spec.address) and refusal(said[0], spec.address, stream, stop)) or said
    unverified = unverified_playlist(container.format.name, scheme, stream)
    video = unverified or _pick(container, stream.max_picture)
    if pipe is not None and pipe.silent:  # FFmpeg took it for the end
        video = pipe.silent
    if isinstance(video, VideoStream):
        if pipe is not None:
            pipe.opened()
        return Opened(container, video, scheme, transport, decoding, pipe)
    container.close()
    if pipe is not None:
        pipe.close()
        if pipe.why is not None:
            return pipe.why
    if unverified:
        return "certificate", video
    hls = container.format.name == "hls"
    return (hls and refusal("format", spec.address, stream, stop)) or ("format", video)


def _pick(container: InputContainer, max_picture: int) -> VideoStream | str:
    """The video stream to read, or why there is none."""
    if len(container.streams) > MOST_TRACKS:
        return f"it holds more than {MOST_TRACKS} tracks"
    # A cover picture in a sound file is a video stream to FFmpeg.
    covers = Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & covers]
    if not streams:
        found = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        return f"it holds no video stream (found: {found})"
    best = container.streams.best("video")
    if container.format.name in PLAYLISTS:  # FFmpeg would take the variant that it has seen the most of
        best = max(
            streams, key=lambda s: s.codec_context.width * s.codec_context.height if s.codec_context else 0
        )
    video = best if best in streams else streams[0]
    assert isinstance(video, VideoStream)
    if not video.codec_context:
        return "this build of FFmpeg has no decoder for its video"
    if video.codec_context.name in _TEXT_ART:
        return "it is text, not video"
    context = video.codec_context
    if large := too_large(context.width, context.height, max_picture):
        return large
    context.options = {"max_pixels": str(max_picture)}
    return video
