"""A point in a process of its own: no memory, thread or cache left over from the one before."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable
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


def apart(work: Work, config: Config, settings: Settings, told: Told | None = None) -> dict[str, Any]:
    """``work`` in a fresh process: what it returns, or raises; PipelineError where the process dies."""
    context = _context()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, work, config, settings), daemon=True)
    process.start()
    there.close()
    try:
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
        process.terminate()
        process.join()
        here.close()


def _work(there: Connection, work: Work, config: Config, settings: Settings) -> None:
    set_malloc()  # as the command does
    # Ctrl-C reaches the whole process group; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        there.send(("done", work(config, settings, lambda rates: there.send(("rates", rates)))))
    except Exception as error:
        there.send(("failed", error))
