"""The command's front door, ``framerail`` and ``python -m pipeline``: how the process begins and ends."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A KeyboardInterrupt in the midst of the next lines says nothing of use. What is ignored (sh: run &) is
    # heard once there is somebody to act on it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import io
import logging
import os
import select
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

from pipeline import shutdown
from pipeline.memory import set_malloc

if sys.argv[1:2] == ["run"]:
    shutdown.listen()
else:
    # Nothing is under way that would have to be finished.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Run the command and end the process with its exit code."""
    _fill_standard_files()
    _say_aside()
    set_malloc()
    import typer

    from pipeline.cli.main import app
    from pipeline.redact import protect, redact

    for argument in sys.argv[1:]:
        protect(argument)
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):  # as older ones of typer call it
        code = shutdown.CANCELLED  # such as a signal while another one is being obeyed
    except OSError as error:
        # Such as a full disk behind standard output.
        with suppress(OSError):
            typer.echo(redact(f"Error: cannot write: {error.strerror}"), err=True)
        code = 4
    except Exception as error:
        # The usage errors of click (which typer may bring along as its own), told by their form.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        helps = type(error).__name__ == "NoArgsIsHelpError"  # the whole help is its message
        if context is not None and not helps:
            typer.echo(redact(context.get_usage()), err=True)
        typer.echo(redact(f"{'' if helps else 'Error: '}{error.format_message()}"), err=True)
        code = getattr(error, "exit_code", 2)
    if sys.argv[1:2] == ["run"] and shutdown.HANGUP is not None:
        # To this run it says nothing any more. Python takes its own handlers away before the process ends.
        signal.signal(shutdown.HANGUP, signal.SIG_IGN)
    _end(code if isinstance(code, int) else 0)


def _fill_standard_files() -> None:
    """Where standard input, output or error is closed, the next file opened would take its place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


class _Aside(io.RawIOBase):
    """Standard error: what cannot be written there, as its reader has gone or its disk is full, is let go of.

    In a buffer it would stay, and fail whoever flushes that next: a process that is started, the interpreter
    at its end, which has an exit code of its own for it. A flush would wait for whoever waits to write, too.
    A pipe with a name may be read again.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int:
        left = memoryview(data)
        with suppress(OSError):
            while left:
                if (count := self._raw.write(left)) is None:  # does not wait by itself, as some leave a pipe
                    select.select((), (self._raw,), ())
                left = left[count or 0 :]
        return len(data)


def _say_aside() -> None:
    """Let nothing that standard error's reader does cost what goes to standard output, or the exit code."""
    if (error := sys.stderr) is not None:
        raw: Any = getattr(error.buffer, "raw", error.buffer)  # python -u has no buffer
        aside: Any = _Aside(raw)
        sys.stderr = io.TextIOWrapper(aside, error.encoding, error.errors, write_through=True)


def _end(code: int) -> NoReturn:
    """End the process; at once where a capture, a sink, the log or what opens an edited config's model is
    still in a native call: it must not meet that."""
    from pipeline import logs

    # Else somebody waits to write to standard error, and holds its locks.
    names = [thread.name for thread in threading.enumerate()]
    written = logs.end() and "progress" not in names
    if written:
        logging.shutdown()
    for stream in (sys.stdout, *((sys.stderr,) if written else ())):
        if stream is not None:
            with suppress(OSError):
                stream.flush()
    if not written or any(name.startswith(("capture:", "sink:", "config")) for name in names):
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
