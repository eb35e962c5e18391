"""A point in a process of its own: no memory, thread or cache left over from the one before."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from pipeline.bench.point import measure
from pipeline.bench.steady import Settings
from pipeline.config import Config
from pipeline.errors import PipelineError


def measure_apart(
    config: Config, settings: Settings, told: Callable[[list[float]], None] | None = None
) -> dict[str, Any]:
    """As :func:`measure`, in a fresh process. Raises what it raises; PipelineError if the process dies."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, config, settings), daemon=True)
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


def _work(there: Connection, config: Config, settings: Settings) -> None:
    # Ctrl-C reaches the whole process group; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        there.send(("done", measure(config, settings, lambda rates: there.send(("rates", rates)))))
    except Exception as error:
        there.send(("failed", error))
