"""Windows: on a real X server without a monitor, and what happens where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from pipeline.errors import SinkOpenError
from pipeline.sinks import Display
from tests.test_sinks_common import in_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tests the X11 way of Linux")

OPEN = """
import sys
from pipeline.errors import SinkOpenError
from pipeline.sinks import Display
try:
    Display()
except SinkOpenError as error:
    print(error)
"""


def has_windows() -> bool:
    gui = next(line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:"))
    return "NONE" not in gui


@pytest.fixture(scope="module")
def screen(tmp_path_factory) -> Iterator[dict[str, str]]:
    """An environment with an X server in memory, whose picture lies in the file FRAMEBUFFER."""
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("needs Xvfb (Debian: xvfb)")
    if not has_windows():
        pytest.skip("this OpenCV build has no windows")
    folder = tmp_path_factory.mktemp("screen")
    reader, writer = os.pipe()
    command = [server, "-displayfd", str(writer), "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    with subprocess.Popen(
        [*command, "-fbdir", str(folder)],
        pass_fds=[writer],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(writer)
        with os.fdopen(reader) as answer:
            number = answer.readline().strip()
        try:
            if not number:
                pytest.skip("Xvfb did not start")
            environment = {key: value for key, value in os.environ.items() if key != "WAYLAND_DISPLAY"}
            yield {**environment, "DISPLAY": f":{number}", "FRAMEBUFFER": str(folder / "Xvfb_screen0")}
        finally:
            process.terminate()
            process.wait(10)


PRELUDE = """
import os, shutil, subprocess, sys, threading, time
import numpy as np
from pipeline.sinks import Display
from tests.test_sinks_common import make_result
from tests.test_sinks_display import count, seen

def picture(colour, stream="cam1", seq=0, boxes=()):
    image = np.full((120, 160, 3), colour, np.uint8)
    return make_result(image, stream=stream, seq=seq, boxes=list(boxes))

def settled(display, colour, expected):
    # A screen shows what was sent to it when it comes round to it. Without a window manager and
    # with busy cores, one window in seven of plain OpenCV is never told that it can be seen, and
    # stays blank (0 of 25 with a manager); mapped once more, as a manager would, it is told.
    for attempt in range(5):
        deadline = time.monotonic() + 1
        while (found := count(colour)) != expected and time.monotonic() < deadline:
            display.pump(50)
        if found == expected or not shutil.which("xdotool"):
            break
        for change in ("windowunmap", "windowmap"):
            subprocess.run(["xdotool", "search", "--onlyvisible" if change == "windowunmap" else "--all",
                            "--name", "cam", change, "%@"], capture_output=True)
    return found

def until(display, condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        display.pump(50)

def key(name, window):
    subprocess.run(["xdotool", "search", "--sync", "--name", window, "windowfocus", "key", name], check=True)
"""


def seen() -> np.ndarray:
    """What the screen shows: uint8 [480, 640, 3], BGR; from an xwd file."""
    data = np.fromfile(os.environ["FRAMEBUFFER"], np.uint8)
    header = data[:100].view(">u4")
    start = int(header[0]) + int(header[19]) * 12  # after the header and the table of colours
    return data[start : start + 480 * int(header[12])].reshape(480, -1, 4)[:, :640, :3]


def count(colour: tuple[int, int, int]) -> int:
    """Pixels of about this colour on the screen."""
    return int((np.abs(seen().astype(int) - colour).max(axis=2) < 8).sum())


def test_each_stream_has_a_window_with_its_newest_picture(screen):
    child = in_child(
        PRELUDE
        + """
with Display() as display:
    for n in range(10):
        display.write(picture((200, 0, 200) if n == 9 else (0, 0, 0), seq=n), 0)
    display.pump(300)
    print(settled(display, (200, 0, 200), 160 * 120))
    display.write(picture((0, 200, 200), boxes=[(40, 40, 120, 100)]), 0)
    display.pump(300)
    print(settled(display, (200, 0, 200), 0), 500 < 160 * 120 - count((0, 200, 200)) < 160 * 60)
print(count((0, 200, 200)))
""",
        env=screen,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == [str(160 * 120), "0", "True", "0"]


def test_the_window_of_a_removed_stream_is_closed(screen):
    child = in_child(
        PRELUDE
        + """
with Display() as display:
    display.write(picture((0, 200, 200), stream="cam2"), 0)  # below the other, at the same place
    display.write(picture((200, 0, 200)), 0)
    display.pump(300)
    print(settled(display, (200, 0, 200), 160 * 120))
    display.release("cam1")
    display.pump(300)
    print(settled(display, (200, 0, 200), 0), settled(display, (0, 200, 200), 160 * 120))
""",
        env=screen,
    )
    assert child.returncode == 0, child.stderr
    whole = str(160 * 120)
    assert child.stdout.split() == [whole, "0", whole]


@pytest.mark.skipif(shutil.which("xdotool") is None, reason="needs xdotool to press keys")
@pytest.mark.parametrize(("name", "asks"), [("q", 1), ("Escape", 1), ("a", 0)])
def test_q_and_escape_ask_to_stop_once(screen, name, asks):
    child = in_child(
        PRELUDE
        + """
asked = []
with Display(lambda: asked.append(threading.current_thread() is threading.main_thread())) as display:
    display.write(picture((9, 9, 9), stream="front door"), 0)
    display.pump(200)
    presser = threading.Thread(target=lambda: [key(sys.argv[1], "front door") for _ in range(2)])
    presser.start()
    until = time.monotonic() + (1.5 if sys.argv[1] == "a" else 20)
    while time.monotonic() < until and (presser.is_alive() or not asked):
        display.pump(20)
    presser.join()
    display.pump(200)
print(asked)
""",
        name,
        env=screen,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == str([True] * asks)


CLOSE = """
import ctypes

def close_window(name):
    \"\"\"Do what a window manager does when its close button is pressed.\"\"\"
    found = subprocess.run(
        ["xdotool", "search", "--sync", "--name", name], check=True, capture_output=True, text=True
    )
    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    class Message(ctypes.Structure):
        _fields_ = [("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("sent", ctypes.c_int),
                    ("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("kind", ctypes.c_ulong),
                    ("format", ctypes.c_int), ("data", ctypes.c_long * 5), ("rest", ctypes.c_long * 20)]
    display = ctypes.c_void_p(x11.XOpenDisplay(None))
    for window in map(int, found.stdout.split()):
        message = Message(33, 0, 1, display, window, x11.XInternAtom(display, b"WM_PROTOCOLS", 0), 32)
        message.data[0] = x11.XInternAtom(display, b"WM_DELETE_WINDOW", 0)
        x11.XSendEvent(display, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(message))
    x11.XCloseDisplay(display)
"""


@pytest.mark.skipif(shutil.which("xdotool") is None, reason="needs xdotool to find windows")
def test_a_closed_window_stays_closed_and_the_last_one_asks_to_stop(screen):
    child = in_child(
        PRELUDE
        + CLOSE
        + """
asked = []
with Display(lambda: asked.append(True)) as display:
    for stream, colour in (("left cam", (200, 0, 200)), ("right cam", (0, 200, 200))):
        display.write(picture(colour, stream=stream), 0)
    display.pump(300)
    close_window("left cam")
    display.pump(300)
    print(len(asked))
    for _ in range(3):
        display.write(picture((200, 0, 200), stream="left cam"), 0)
        display.pump(100)
    print(settled(display, (200, 0, 200), 0))
    close_window("right cam")
    until(display, lambda: asked)
    print(len(asked))
    display.write(picture((0, 200, 200), stream="right cam"), 0)
""",
        env=screen,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == ["0", "0", "1"]


def test_a_large_picture_gets_a_window_that_fits_a_screen(screen):
    child = in_child(
        PRELUDE
        + """
import cv2
with Display() as display:
    display.write(make_result(np.zeros((2160, 3840, 3), np.uint8)), 0)
    display.pump(300)
    print(cv2.getWindowImageRect("cam1")[2:])
""",
        env=screen,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "(1280, 720)"


def test_another_thread_may_write_and_only_the_owner_shows(screen):
    child = in_child(
        PRELUDE
        + """
display = Display()
caught = []
def work():
    for n in range(100):
        display.write(picture((n, n, n), seq=n), 0)
    display.write(picture((200, 0, 200)), 0)
    try:
        display.pump()
    except RuntimeError as error:
        caught.append(str(error))
worker = threading.Thread(target=work)
worker.start()
worker.join()
print(count((200, 0, 200)), len(caught))
display.pump(300)
print(settled(display, (200, 0, 200), 160 * 120))
closer = threading.Thread(target=display.close)
closer.start()
closer.join()
display.pump()
print(settled(display, (200, 0, 200), 0))
""",
        env=screen,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == ["0", "1", str(160 * 120), "0"]


def test_without_a_screen_it_says_so_and_the_process_lives(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkOpenError, match=r"no screen \(neither DISPLAY.*or use --video"):
        Display()


@pytest.mark.skipif(not has_windows(), reason="this OpenCV build has no windows")
@pytest.mark.parametrize("display", [":4242", "nonsense"])
def test_a_screen_that_cannot_be_reached_does_not_abort_the_process(monkeypatch, display):
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkOpenError, match=r"a test window failed \(.*could not connect.*check DISPLAY"):
        Display()


def test_an_opencv_without_windows_is_told_from_a_missing_screen(tmp_path, monkeypatch):
    # The headless wheel cannot be installed beside the other one; its answer is this.
    (tmp_path / "cv2.py").write_text(
        "class error(Exception): pass\n"
        "def namedWindow(name):\n"
        "    raise error('The function is not implemented. Rebuild the library with Windows, GTK+ 2.x')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":4242")
    with pytest.raises(SinkOpenError, match=r"build has none; install framerail\[cpu\], or use --video"):
        Display()
