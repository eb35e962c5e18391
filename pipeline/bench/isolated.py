"""A point in a process of its own: no memory, thread or cache left over from the one before."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from pipeline.bench.point import Told
from pipeline.bench.steady import Settings
from pipeline.config import Config
from pipeline.errors import PipelineError
from pipeline.memory import set_malloc

Work = Callable[[Config, Settings, Told | None], dict[str, Any]]


def _context() -> Any:
    """Of processes that know nothing of this one's threads and memory. On Linux they are forked from one that
    has imported the libraries, and nothing else: that saves each a second."""
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextmanager
def without_interrupts() -> Iterator[None]:
    """A process that is started in here never hears of Ctrl-C, which reaches the whole process group, from
    its first instruction on: whoever started it ends it. (On Windows, whose Ctrl-C is no signal, it does.)
    """
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # which unblocks SIGINT at its end, and would be started on the way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def apart(work: Work, config: Config, settings: Settings, told: Told | None = None) -> dict[str, Any]:
    """``work`` in a fresh process: what it returns, or raises; PipelineError where the process dies."""
    context = _context()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, work, config, settings), daemon=True)
    try:
        with without_interrupts():
            process.start()
        there.close()
        while True:
            try:
                kind, value = here.recv()
            except EOFError:
                process.join()
                raise PipelineError(
                    f"the measuring process ended by itself (exit code {process.exitcode}); "
                    "-9 is what the system does to a process that takes too much memory"
                ) from None
            if kind == "done":
                found: dict[str, Any] = value
                return found
            if kind == "failed":
                raise value
            if told is not None:
                told(value)
    finally:
        if process.pid is not None:  # or it was not started
            process.terminate()
            process.join()
        here.close()


def _work(there: Connection, work: Work, config: Config, settings: Settings) -> None:
    set_malloc()  # as the command does
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for Windows, see without_interrupts
    with suppress(BrokenPipeError):  # who asked is gone
        try:
            there.send(("done", work(config, settings, lambda rates: there.send(("rates", rates)))))
        except Exception as error:
            there.send(("failed", error))
