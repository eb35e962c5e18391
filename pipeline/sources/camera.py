"""A local camera, through OpenCV's VideoCapture.

Whatever makes the capture is a parameter, because tests have no camera: they hand in a
VideoCapture on a real video file. What a real camera's driver does with the requests (and how
long it blocks) has to be seen on a machine that has one.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from pipeline.config import CameraConfig, StreamConfig
from pipeline.errors import SourceOpenError, SourceReadError
from pipeline.frame import Image
from pipeline.sources.base import Picture, Remembered, Source, SourceSpec
from pipeline.sources.opened import Once
from pipeline.sources.quiet import no_opencv_log

LOG = logging.getLogger(__name__)

CaptureFactory = Callable[[str], cv2.VideoCapture]


def device(address: str) -> cv2.VideoCapture:
    """A VideoCapture on ``0`` or ``/dev/video0``, by the platform's own camera interface."""
    # Any other backend on Linux would try the address as a file or a GStreamer pipeline.
    backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
    target: int | str = int(address) if address.isdecimal() else address
    if sys.platform == "linux" and isinstance(target, int):
        target = f"/dev/video{target}"
    return cv2.VideoCapture(target, backend)  # type: ignore[call-overload,no-any-return,unused-ignore]


class CameraSource(Once):
    """The pictures of a camera, as they come."""

    live = True

    def __init__(
        self,
        spec: SourceSpec,
        stream: StreamConfig,
        stop: threading.Event,
        capture: CaptureFactory = device,
    ) -> None:
        super().__init__()
        self._shown, self._stop, self._timeout = f"camera {spec.address}", stop, stream.stall_timeout
        try:
            with no_opencv_log():
                self._capture = capture(spec.address)
        except cv2.error as error:
            reason = " ".join(str(error).split())
            raise SourceOpenError(f"cannot open {self._shown}: {reason}") from None
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceOpenError(
                f"cannot open {self._shown}: there is none, another program holds it, or you may not use it "
                "(on Linux: v4l2-ctl --list-devices, and the group video)",
                cause="not_found",
            )
        try:
            self.description = self._configure(stream.camera)
        except cv2.error as error:
            self._capture.release()
            raise SourceOpenError(f"cannot set up {self._shown}: {error}") from None
        LOG.info("%s: %s", self._shown, self.description)

    def close(self) -> None:
        """Release the camera; twice does no harm."""
        self._capture.release()

    def _configure(self, wanted: CameraConfig) -> str:
        """Ask for size, rate and pixel format; say what was given."""
        capture = self._capture
        # Pixel format first: which sizes and rates a camera offers depends on it.
        if wanted.pixel_format is not None:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*wanted.pixel_format))
        for name, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, wanted.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, wanted.height),
            (cv2.CAP_PROP_FPS, wanted.fps),
        ):
            if value is not None:
                capture.set(name, value)
        # The driver's queue is latency; drivers that cannot change it ignore this.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        width, height = (
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )
        fps, code = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
        letters = code.to_bytes(4, "little").decode("ascii", "replace")
        pixel_format = letters if letters.isprintable() and letters.strip() else "unknown"
        asked = {"width": wanted.width, "height": wanted.height, "fps": wanted.fps}
        given = {"width": width, "height": height, "fps": fps}
        differs = [
            f"{key} {given[key]:g} instead of {value:g}"
            for key, value in asked.items()
            if value is not None and abs(value - given[key]) > 0.5
        ]
        if wanted.pixel_format is not None and wanted.pixel_format != pixel_format:
            differs.append(f"pixel format {pixel_format} instead of {wanted.pixel_format}")
        self.declared_fps = fps or wanted.fps
        if differs:
            LOG.warning("%s gives %s", self._shown, ", ".join(differs))
        return f"{pixel_format}, {width}x{height}, {fps:g} fps, {capture.getBackendName()}"

    def _pictures(self) -> Iterator[Picture]:
        count = 0
        last = time.monotonic()
        while not self._stop.is_set():
            try:
                # grab() waits for the camera, retrieve() decodes: only the latter is our time.
                grabbed = self._capture.grab()
                begun = time.perf_counter()
                good, image = self._capture.retrieve() if grabbed else (False, None)
            except cv2.error as error:
                raise SourceReadError(f"{self._shown}: OpenCV: {error}", cause="error") from None
            if not grabbed:
                raise self._ended(count, time.monotonic() - last)
            if not good or image is None or image.size == 0:
                self._corrupt_packets += 1
                if time.monotonic() - last >= self._timeout:
                    raise self._ended(count, time.monotonic() - last)
                continue
            # A copy: a backend may hand out its own buffer again.
            picture = _bgr(image)
            count += 1
            yield Picture(picture, None, None, time.perf_counter() - begun)
            last = time.monotonic()

    def _ended(self, count: int, waited: float) -> SourceReadError:
        timed_out = waited >= self._timeout
        cause, why = (
            ("timeout", "no picture in time") if timed_out else ("ended", "it gives no more pictures")
        )
        return SourceReadError(f"{self._shown}: {why} (unplugged?), after {count} pictures", cause=cause)


def open_camera(
    spec: SourceSpec, stream: StreamConfig, stop: threading.Event, _: Remembered | None = None
) -> Source:
    """Open a camera. Raises SourceOpenError."""
    return CameraSource(spec, stream, stop)


def _bgr(image: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Image:
    """A fresh uint8 [height, width, 3] of what ``retrieve`` gave, which may be grey."""
    if image.ndim == 2 or image.shape[2] == 1:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    return np.array(image[:, :, :3], np.uint8, order="C")
