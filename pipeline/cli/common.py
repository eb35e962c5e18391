"""What the commands share: errors in one line and exit codes, the consoles."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from pipeline.errors import PipelineError, SourceError
from pipeline.printable import on_terminal, printable
from pipeline.redact import redact
from pipeline.references import resolved
from pipeline.shutdown import CANCELLED, CANCELLING, HANGUP, Presses

log = logging.getLogger("framerail")


class SafeConsole(Console):
    """A console that shows text as text: lines and tabs alone are what they are."""

    def render_str(self, text: str, **options: Any) -> Text:
        """As in the base class, which all strings pass, those of tables too."""
        return super().render_str(printable(text, "\n\t"), **options)


# No markup: a stream may be called gate[north].
console = SafeConsole(stderr=True, markup=False)


@contextmanager
def reporting(hint: str = "--debug shows where") -> Iterator[None]:
    """Errors become one line each and an exit code; a traceback only with ``--debug``.

    ``hint`` is what to do about one that nobody foresaw.
    """
    interrupted, presses = False, Presses()

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if number == HANGUP:  # whose shell may say so again, while a folder is being removed
            signal.signal(number, signal.SIG_IGN)
        if presses.counts(time.monotonic()):  # else what is held is being let go of
            interrupted = True
            signal.default_int_handler(number, frame)

    previous: dict[int, Any] = {}
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            # From here on Ctrl-C has to let go of what is held: a progress bar, an unfinished file. So have
            # SIGTERM, which `timeout` sends, and SIGHUP, of a terminal that is closed: they would leave a
            # folder with a model half quantised behind. What is to be ignored (nohup) stays so.
            for number in CANCELLING if HANGUP is None else (*CANCELLING, HANGUP):
                if signal.getsignal(number) != signal.SIG_IGN:
                    previous[number] = signal.signal(number, interrupt)
        yield
    except (typer.Exit, SystemExit):
        raise
    except BrokenPipeError:
        # Whoever read standard output has had enough (| head); standard error raises none (see __main__).
        # What is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        raise typer.Exit(CANCELLED) from None
    except Exception as raised:
        if interrupted:
            # A native library makes an error of its own of it ("initialization failed").
            raise typer.Exit(CANCELLED) from None
        log.debug("raised:", exc_info=raised)
        errors = list(_leaves(raised))
        for error in errors:
            # A source's error that comes in a group was logged when its stream ended.
            if error is raised or not isinstance(error, SourceError):
                log.error("%s", _one_line(error, hint))
        # Failed while running outranks what could not be opened.
        raise typer.Exit(max(_exit_code(error) for error in errors)) from None
    finally:
        # Nothing is held any more, and a KeyboardInterrupt while the process ends says nothing of use.
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, PipelineError) else PipelineError.exit_code


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _one_line(error: BaseException, hint: str) -> str:
    if isinstance(error, PipelineError):
        return str(error)
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
    return redact(f"{type(error).__name__}: {' '.join(str(error).split())}{notes}; {hint}")


def stdout() -> Console:
    """For tables; wide where no terminal sets the width, so that grep finds whole lines."""
    shown = _Out(markup=False)
    return shown if on_terminal(shown) else _Out(markup=False, width=160)


class _Out(SafeConsole):
    """A console whose reader may have had enough: ``reporting`` knows what to do."""

    def on_broken_pipe(self) -> None:
        """Raise what rich would turn into exit code 1."""
        raise BrokenPipeError


def resolved_sources(sources: Iterable[str]) -> list[str]:
    """The sources of a command line, with what their references stand for. Raises ConfigError."""
    return [resolved(source, "SOURCE") for source in sources]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that were given."""
    return {key: value for key, value in options.items() if value is not None}
