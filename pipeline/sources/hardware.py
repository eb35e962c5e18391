"""Video decode in hardware: which ways there are, which can be had, and which one really decodes.

FFmpeg falls back without a word: for a codec that the device has no decoder for, for a profile or a
size that its driver refuses; but it raises when the device itself cannot be had. So the device
is tried here beforehand, and who decodes is read back after the first picture.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import av.codec
import av.error
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.video.stream import VideoStream

log = logging.getLogger(__name__)

METHODS = ("cuda", "vaapi", "qsv")
"""FFmpeg's names of the devices that can be asked for, in the order of ``auto``."""
_COMMON = ("h264", "hevc", "mpeg2video", "mjpeg", "vp9", "av1")


class NoHardwareError(Exception):
    """Asked for by name and not to be had; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a stream's video is to be decoded: ``method`` on a device, or "" for the CPU."""

    asked: str
    method: str = ""
    reason: str = ""
    """Why not on a device, where ``auto`` found none."""

    def device(self) -> HWAccel | None:
        """What ``av.open`` takes."""
        return HWAccel(self.method) if self.method else None

    def settle(self, video: VideoStream, shown: str) -> str:
        """After the first picture: where ``video`` is decoded, in words; "" where nothing was asked.

        Raises NoHardwareError where the device that was asked for by name does not decode it.
        """
        if self.asked == "none":
            return ""
        if self.method and decodes_on(video, self.method):
            return f" decoded by {self.method}"
        codec = video.codec_context.name
        why = self.reason or f"{self.method} does not decode this {codec} ({_kind(video)}) here"
        if self.asked != "auto":
            raise NoHardwareError(f"{why}; --hwdecode auto would decode it on the CPU")
        log.info("%s: hwdecode auto decodes on the CPU: %s", shown, why)
        return " decoded by the CPU"


def choose(asked: str) -> Decoding:
    """The way for ``hwdecode: asked``. Raises NoHardwareError where a device named there is not."""
    if asked == "none":
        return Decoding(asked)
    if asked != "auto":
        if why := unavailable(asked):
            raise NoHardwareError(f"hwdecode {asked}: {why}; framerail doctor shows what there is")
        return Decoding(asked, asked)
    reasons = {method: unavailable(method) for method in METHODS}
    best = next((method for method, why in reasons.items() if not why), "")
    said = "; ".join(f"{method}: {why}" for method, why in reasons.items())
    return Decoding(asked, best, "" if best else said)


def unavailable(method: str) -> str:
    """Why a device cannot be had, found out by opening it; "" where it can."""
    built = hwdevices_available()
    if method not in built:
        return f"this build of FFmpeg has none (it has: {', '.join(built) or 'no hardware decode'})"
    for name in _COMMON:
        try:
            HWAccel(method).create(av.codec.Codec(name, "r"))
        except (NotImplementedError, av.codec.codec.UnknownCodecError):
            continue  # this decoder takes no such device; another may
        except av.error.FFmpegError as error:
            return f"the device cannot be opened ({error.strerror}): no such hardware, or no driver"
        return ""
    return "no decoder of this build of FFmpeg takes such a device"


def on_device(video: VideoStream) -> bool:
    """Whether FFmpeg will try a device for ``video``; whether that takes it is another question."""
    return video.codec_context.is_hwaccel


def decodes_on(video: VideoStream, method: str) -> bool:
    """Whether the device decodes, once there is a picture: FFmpeg has then settled on its pixel format."""
    return on_device(video) and video.codec_context.pix_fmt == method


def _kind(video: VideoStream) -> str:
    context = video.codec_context
    return f"{context.profile or 'no profile'}, {context.width}x{context.height}"
