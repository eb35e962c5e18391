"""Signals: what is recorded, when, and what comes of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from pipeline import shutdown
from pipeline.cli import common
from pipeline.cli.common import reporting
from pipeline.shutdown import HANGUP, SAME_SECONDS, listen, signals

pytestmark = pytest.mark.skipif(HANGUP is None, reason="Windows has no hangup and no kill(2)")


APART = SAME_SECONDS + 0.05


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_one_that_came_before_the_line_stops_it_at_once() -> None:
    listen()
    send(signal.SIGTERM)
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        assert stopped.wait(5)
        assert not cancelled.wait(APART)
        send(signal.SIGINT)
        assert cancelled.wait(5)


def test_a_hangup_drains_and_a_second_one_cancels_nothing() -> None:
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        send(signal.SIGHUP)
        assert stopped.wait(5)
        send(signal.SIGHUP)
        assert not cancelled.wait(APART)
        send(signal.SIGTERM)
        assert cancelled.wait(5)


def test_what_a_wrapper_passes_on_again_at_once_is_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """``timeout -s INT`` sends its child what the terminal has sent to both."""
    monkeypatch.setattr(shutdown, "SAME_SECONDS", 60)  # this machine may be slow
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        send(signal.SIGINT)
        assert stopped.wait(5)
        for number in (signal.SIGINT, signal.SIGTERM):  # some pass it on as the latter
            send(number)
            assert not cancelled.wait(0.05)


def test_the_same_signal_cancels_once_a_hand_can_have_sent_it() -> None:
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        send(signal.SIGINT)
        assert stopped.wait(5)
        time.sleep(APART)
        send(signal.SIGINT)
        assert cancelled.wait(5)


def test_two_that_are_one_and_came_before_the_line_do_not_cancel_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "SAME_SECONDS", 60)  # this machine may be slow
    listen()
    send(signal.SIGINT)
    send(signal.SIGINT)
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        assert stopped.wait(5)
        assert not cancelled.wait(0.05)


def test_two_before_there_is_a_line_end_what_waits_for_a_file(tmp_path: Path) -> None:
    """Which may wait as long as whoever writes it likes."""
    os.mkfifo(tmp_path / "sources")
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", "--source-file", str(tmp_path / "sources")]
    ) as process:
        try:
            with (tmp_path / "sources").open("w"):  # once it reads
                process.send_signal(signal.SIGINT)
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.2)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 130
        finally:
            process.kill()


def test_a_terminal_that_goes_away_takes_nothing_from_the_run(cheap_model: str, tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    ours, theirs = os.openpty()
    arguments = ["synthetic:64x48@50", "--model", cheap_model, "--jsonl", str(lines)]
    with subprocess.Popen([sys.executable, "-m", "pipeline", "run", *arguments], stderr=theirs) as process:
        try:
            os.close(theirs)
            shown = b""
            while b"frames" not in shown:
                shown += os.read(ours, 1 << 16)
            os.close(ours)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert lines.read_bytes().endswith(b"}\n")


def test_what_is_one_stays_one_where_stopping_takes_its_time() -> None:
    begun, go, cancelled = threading.Event(), threading.Event(), threading.Event()

    def stop() -> None:
        begun.set()
        assert go.wait(5)

    with signals(stop, cancelled.set):
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert begun.wait(5)
        time.sleep(0.15)
        go.set()
        assert not cancelled.wait(0.05)


def test_a_hangup_that_is_to_be_ignored_is(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopped = threading.Event()
    with signals(stopped.set, stopped.set):
        send(signal.SIGHUP)
        assert not stopped.wait(0.05)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_handlers_return_and_nothing_is_left_for_the_next_line() -> None:
    before = signal.getsignal(signal.SIGINT)
    done = threading.Event()
    with signals(lambda: None, done.set):
        for _ in range(2):
            send(signal.SIGINT)
            send(signal.SIGTERM)
            time.sleep(APART)
        assert done.wait(5)
    assert signal.getsignal(signal.SIGINT) == before
    stopped = threading.Event()
    with signals(stopped.set, stopped.set):
        assert not stopped.wait(0.05)


LATE = """
import os, signal, sys

class Late:
    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGHUP):
        kill(own, number)  # when the interpreter is taken down

sys.argv[1:] = ["run", *sys.argv[1:]]
from pipeline.__main__ import main
os.late = Late()
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["nowhere.mp4"], 2), (["synthetic:32x32?frames=2", "-q"], 0)]
)
def test_a_hangup_after_the_run_does_not_change_its_exit_code(
    cheap_model: str, arguments: list[str], code: int
) -> None:
    """Python's handlers are gone by then, while the process is still there."""
    if code == 0 and "--help" not in arguments:
        arguments = [*arguments, "--model", cheap_model]
    done = subprocess.run([sys.executable, "-c", LATE, *arguments], capture_output=True, check=False)
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize("ignored", [[], [signal.SIGHUP], [signal.SIGTERM, signal.SIGHUP]])
def test_a_command_that_drains_nothing_lets_go_at_each_signal_but_those_to_be_ignored(
    ignored: list[int],
) -> None:
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.SIG_IGN if number in ignored else signal.SIG_DFL for number in numbers}
    for sent in numbers:
        for number, handler in before.items():
            signal.signal(number, handler)
        ends = contextlib.nullcontext() if sent in ignored else pytest.raises(typer.Exit)
        with ends as end, reporting():
            send(sent)
        assert end is None or end.value.exit_code == 130
        assert {number: signal.getsignal(number) for number in numbers} == before


@pytest.mark.parametrize(("number", "apart", "tidied"), [
    (signal.SIGHUP, 0.0, True), (signal.SIGHUP, 0.2, True),
    (signal.SIGINT, 0.0, True), (signal.SIGINT, 0.2, False), (signal.SIGTERM, 0.0, True),
])  # fmt: skip
def test_what_comes_twice_at_once_does_not_disturb_the_tidying_up(
    number: int, apart: float, tidied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a terminal that goes away; a second Ctrl-C does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    before, tidy = signal.getsignal(number), False
    if not apart:
        monkeypatch.setattr(common, "SAME_SECONDS", 60)  # this machine may be slow
    with pytest.raises(typer.Exit), reporting():
        try:
            send(number)
        finally:
            time.sleep(apart)
            send(number)
            tidy = True
    assert tidy is tidied
    assert signal.getsignal(number) == before


EARLY = """
import signal, sys
module = sys.argv.pop(1)
from pipeline import __main__

class Meanwhile:
    def find_spec(self, name, path, target=None):
        if name == module:
            signal.raise_signal(signal.SIGTERM)

sys.meta_path.insert(0, Meanwhile())
__main__.main()
"""


@pytest.mark.parametrize("module", ["numpy.lib", "onnxruntime.capi", "cv2"])
def test_a_signal_while_the_libraries_are_imported_is_no_traceback(module: str) -> None:
    """From C++ one imports another, and prints what a handler raises in there."""
    done = subprocess.run(
        [sys.executable, "-c", EARLY, module, "bench", "sample:"], capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "typer.Abort"])
def test_an_interrupt_that_gets_out_of_the_command_is_no_traceback(raised: str) -> None:
    code = (
        "import typer; from pipeline import __main__; from pipeline.cli import main\n"
        f"def app(**_): raise {raised}\n"
        "main.app = app; __main__.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
