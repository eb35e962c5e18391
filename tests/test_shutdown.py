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
from pipeline.cli.common import reporting
from pipeline.shutdown import HANGUP, listen, signals

pytestmark = pytest.mark.skipif(HANGUP is None, reason="Windows has no hangup and no kill(2)")


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
        assert not cancelled.wait(0.15)
        send(signal.SIGINT)
        assert cancelled.wait(5)


def test_a_hangup_drains_and_a_second_one_cancels_nothing() -> None:
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        send(signal.SIGHUP)
        assert stopped.wait(5)
        time.sleep(0.15)
        send(signal.SIGHUP)
        assert not cancelled.wait(0.05)
        send(signal.SIGTERM)
        assert cancelled.wait(5)


TWO = [(one, other) for one in ("INT", "TERM", "HUP") for other in ("INT", "TERM", "HUP")]


@pytest.mark.parametrize(("one", "other"), TWO)
def test_what_a_wrapper_passes_on_at_once_is_no_second_one(
    one: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``timeout -s INT`` sends its child what the terminal has sent to both; foreman, SIGTERM."""
    monkeypatch.setattr(shutdown, "SAME_SECONDS", 60)  # this machine may be slow
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        send(getattr(signal, f"SIG{one}"))
        assert stopped.wait(5)
        send(getattr(signal, f"SIG{other}"))
        assert not cancelled.wait(0.05)


@pytest.mark.parametrize(("one", "other"), [(one, other) for one, other in TWO if other != "HUP"])
def test_a_signal_cancels_once_a_hand_can_have_sent_it(one: str, other: str) -> None:
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        send(getattr(signal, f"SIG{one}"))
        assert stopped.wait(5)
        time.sleep(0.15)
        send(getattr(signal, f"SIG{other}"))
        assert cancelled.wait(5)


def test_a_hangup_that_stops_nothing_is_heard_each_time_and_is_not_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutdown, "SAME_SECONDS", 60)
    stopped, read = threading.Event(), threading.Semaphore(0)
    with signals(stopped.set, stopped.set, hangup=read.release):
        for _ in range(2):
            send(signal.SIGHUP)
            assert read.acquire(timeout=5)
        assert not stopped.is_set()
        send(signal.SIGTERM)
        assert stopped.wait(5)
        send(signal.SIGHUP)
        assert read.acquire(timeout=5)


def test_two_that_came_before_the_line_are_one_if_they_came_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are read at the same moment."""
    monkeypatch.setattr(shutdown, "SAME_SECONDS", 60)
    listen()
    send(signal.SIGINT)
    send(signal.SIGTERM)
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        assert stopped.wait(5)
        assert not cancelled.wait(0.05)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_before_there_is_a_line_ends_the_process(tmp_path: Path, second: int) -> None:
    """Such as while a pipe is waited for, whose writer says nothing for up to 30 s."""
    fifo, out = tmp_path / "sources", tmp_path / "out.jsonl"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", "--source-file", str(fifo), "--jsonl", str(out)]
    )
    try:
        with open(fifo, "wb"):  # opens once it is read
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(second)
            assert process.wait(5) == 130
    finally:
        process.kill()
        process.wait()
    assert not out.exists()


@pytest.mark.parametrize("early", [0, 1, 2])
def test_each_is_acted_on_once_where_the_line_takes_over(early: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``early`` of two come before it does: they end the process, or the line gets both."""
    monkeypatch.setattr(shutdown, "SAME_SECONDS", -1)  # none is another one
    ended, acted = list[int](), list[str]()
    monkeypatch.setattr(os, "_exit", ended.append)
    heard, _ = listen()
    for sent in range(early):
        send(signal.SIGTERM)
        while heard.qsize() <= sent:
            time.sleep(0.01)
    both = threading.Event()

    def second() -> None:
        acted.append("second")
        both.set()

    with signals(lambda: acted.append("first"), second):
        for _ in range(early, 2):
            send(signal.SIGTERM)
        assert both.wait(5)
    assert acted == ["first", "second"] and ended == [130] * (early == 2)


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
        send(signal.SIGINT)
        time.sleep(0.15)
        for _ in range(2):
            send(signal.SIGTERM)
            send(signal.SIGINT)
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


@pytest.mark.parametrize(("apart", "tidied"), [(0.0, True), (0.2, False)])
@pytest.mark.parametrize(("one", "other"), TWO)
def test_what_comes_twice_at_once_does_not_disturb_the_tidying_up(
    one: str, other: str, apart: float, tidied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a terminal that says again that it goes away; a second Ctrl-C does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    first, second = getattr(signal, f"SIG{one}"), getattr(signal, f"SIG{other}")
    before, tidy = signal.getsignal(first), False
    tidied = tidied or one == other == "HUP"
    if not apart:
        monkeypatch.setattr(shutdown, "SAME_SECONDS", 60)  # this machine may be slow
    with pytest.raises(typer.Exit), reporting():
        try:
            send(first)
        finally:
            time.sleep(apart)
            send(second)
            tidy = True
    assert tidy is tidied
    assert signal.getsignal(first) == before


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


EARLIEST = """
import signal, sys

class Meanwhile:
    def find_spec(self, name, path, target=None):
        if name == "pipeline.shutdown":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Meanwhile())
from pipeline import __main__
__main__.main()
"""


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(("arguments", "code"), [(["run", "--help"], 0), (["models", "frobnicate"], 2)])
def test_ctrl_c_before_anything_listens_is_no_traceback(
    arguments: list[str], code: int, ignored: bool
) -> None:
    """The signal itself ends the process, unless it is ignored, as a shell without job control has it."""
    start = f"import signal; signal.signal(2, signal.{'SIG_IGN' if ignored else 'default_int_handler'})"
    done = subprocess.run(
        [sys.executable, "-c", start + EARLIEST, *arguments], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == (code if ignored else -signal.SIGINT)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "typer.Abort"])
def test_an_interrupt_that_gets_out_of_the_command_is_no_traceback(raised: str) -> None:
    code = (
        "import typer; from pipeline import __main__; from pipeline.cli import main\n"
        f"def app(**_): raise {raised}\n"
        "main.app = app; __main__.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
