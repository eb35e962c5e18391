"""Annotated frames in windows on the screen.

A window toolkit belongs to one thread, on macOS to the main one, while results come from a
stage's thread. So the thread that makes the Display shows: in it, ``write`` shows at once;
from another thread, ``write`` leaves its picture for the next ``pump``, the newest of each
stream only, and never waits for the screen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import cv2

from pipeline.errors import SinkOpenError
from pipeline.frame import Image, Result
from pipeline.sinks.base import Sink
from pipeline.sinks.video import caption_of
from pipeline.vision.draw import draw

_QUIT_KEYS = frozenset({ord("q"), ord("Q"), 27})
_PROBE = "import cv2; cv2.namedWindow('framerail'); cv2.waitKey(1); cv2.destroyAllWindows()"
_PROBE_TIMEOUT_SECONDS = 20.0
_LARGEST = (1280, 720)
"""Width and height in pixels that a new window fits into; it can be resized."""
_REMEDY = "or use --video to write a file instead"


class Display(Sink):
    """Shows each stream in its own window, newest frame first.

    The keys q and Esc call ``on_quit``, and so does closing the last window; a window that was
    closed stays closed. Raises SinkOpenError where no window can be had.
    """

    kind = "display"

    def __init__(self, on_quit: Callable[[], None] | None = None) -> None:
        _check_screen()
        self._on_quit = on_quit or (lambda: None)
        self._owner = threading.get_ident()
        self._lock = threading.Lock()
        self._pictures: dict[str, Image] = {}
        self._open: set[str] = set()
        self._dismissed: set[str] = set()
        self._released: set[str] = set()
        self._asked = False
        self._closed = False

    def write(self, result: Result, dropped_before: int) -> None:
        """Draw one frame on a copy and show it (see the module)."""
        if self._closed or result.stream in self._dismissed:
            return
        image = result.frame.image.copy()
        draw(image, result.detections, caption=caption_of(result))
        with self._lock:
            self._pictures[result.stream] = image
        if threading.get_ident() == self._owner:
            self.pump()

    def release(self, stream: str) -> None:
        """Close the window of a stream that was removed, at the next pump."""
        with self._lock:
            self._pictures.pop(stream, None)
            self._released.add(stream)
        if threading.get_ident() == self._owner:
            self.pump()

    def idle(self) -> None:
        """Let windows answer while no result comes."""
        self.pump()

    def pump(self, wait_ms: int = 1) -> None:
        """Show the newest pictures, then heed keys and closed windows for ``wait_ms`` (at least 1).

        Call it regularly, from the thread that made the Display. Raises RuntimeError in another.
        """
        if threading.get_ident() != self._owner:
            raise RuntimeError("Display.pump() was called by another thread than the one that made it")
        if self._closed:
            self._close_windows()
            return
        with self._lock:
            pictures, self._pictures = self._pictures, {}
            released, self._released = self._released, set()
        for stream in released:
            self._dismissed.discard(stream)
            if stream in self._open:
                self._open.remove(stream)
                cv2.destroyWindow(stream)
        for stream, image in pictures.items():
            if stream in self._dismissed:
                continue
            if stream not in self._open:
                cv2.namedWindow(stream, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
                height, width = image.shape[:2]
                scale = min(1.0, _LARGEST[0] / width, _LARGEST[1] / height)
                cv2.resizeWindow(stream, max(round(width * scale), 1), max(round(height * scale), 1))
                self._open.add(stream)
            cv2.imshow(stream, image)
        if not self._open:
            return
        key = cv2.waitKey(max(wait_ms, 1)) & 0xFF
        closed = {stream for stream in self._open if not _visible(stream)}
        self._open -= closed
        self._dismissed |= closed
        if key in _QUIT_KEYS or (closed and not self._open):
            self._quit()

    def close(self) -> None:
        """Close the windows; called by another thread than the Display's own, at the next pump."""
        self._closed = True
        if threading.get_ident() == self._owner:
            self._close_windows()

    def abort(self) -> None:
        """The same as closing."""
        self.close()

    def _close_windows(self) -> None:
        if self._open:
            self._open.clear()
            cv2.destroyAllWindows()
            cv2.waitKey(1)  # some toolkits close windows only when events are handled

    def _quit(self) -> None:
        if not self._asked:
            self._asked = True
            self._on_quit()


def _visible(window: str) -> bool:
    try:
        return bool(cv2.getWindowProperty(window, cv2.WND_PROP_VISIBLE) >= 1)
    except cv2.error:  # Qt knows nothing of windows once the last one is gone
        return False


def _check_screen() -> None:
    """Raise SinkOpenError unless a window can be opened."""
    if sys.platform != "linux":
        try:
            cv2.namedWindow("framerail")
            cv2.destroyWindow("framerail")
        except cv2.error as error:
            raise _no_windows() from error
        return
    if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        raise SinkOpenError(
            "cannot show windows: there is no screen (neither DISPLAY nor WAYLAND_DISPLAY is set); "
            f"run it in a desktop session, {_REMEDY}"
        )
    # Qt calls abort() when it cannot reach the screen, whatever the reason (no server, no
    # permission, a missing library), and takes the process along. So another one tries first.
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SinkOpenError(
            f"cannot show windows: the screen did not answer in {_PROBE_TIMEOUT_SECONDS:.0f} s; "
            f"check DISPLAY, {_REMEDY}"
        ) from error
    if "not implemented" in probe.stderr:
        raise _no_windows()
    if probe.returncode != 0:
        said = next((line for line in probe.stderr.splitlines() if line.strip()), "no message")
        raise SinkOpenError(
            f"cannot show windows: a test window failed ({said.strip()}); check DISPLAY, {_REMEDY}"
        )


def _no_windows() -> SinkOpenError:
    return SinkOpenError(
        f"cannot show windows: this OpenCV build has none; install framerail[cpu], {_REMEDY}"
    )
