"""``framerail run`` while it runs: signals, progress, the summary, and the exit code."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import typer

from pipeline import logs
from pipeline.cli.common import console, log
from pipeline.config import Config
from pipeline.errors import PipelineError, SourceOpenError
from pipeline.printable import on_terminal
from pipeline.shutdown import CANCELLED, ON_TERMINAL

FORCED_EXIT_SECONDS = 0.8


def run_line(
    config: Config,
    debug: bool,
    path: str | None,
    read: Callable[[], Config],
    watch: bool,
    seen: tuple[int, int, int] | None = None,
) -> None:
    """Run the line of ``config`` to its end, and say what came of it.

    ``read`` is that of the file ``path`` as it is at the time, at SIGHUP and, with ``watch``, at each edit;
    ``seen`` its stamp from before it was read first.
    Raises what a Pipeline raises, and typer.Exit for a line that did not end well.
    """
    from pipeline import dependencies

    dependencies.check()
    from pipeline.app import Pipeline
    from pipeline.console import ProgressDisplay, print_summary
    from pipeline.reload import Reloader
    from pipeline.shutdown import signals
    from pipeline.sources import route_ffmpeg_log
    from pipeline.summary import check_writable, summarize, write_summary

    if debug:
        route_ffmpeg_log(logging.DEBUG)
    if config.summary is not None:
        check_writable(config.summary)
    pipeline = Pipeline(config, also_read=[path] if path is not None else [])
    interrupted = threading.Event()

    def stop() -> None:
        interrupted.set()
        pipeline.stop()
        log.warning("stopping: what is in flight is finished first; once more to stop at once")

    def cancel() -> None:
        # A thread that sits in a native call cannot be waited for within a second.
        forced = threading.Timer(FORCED_EXIT_SECONDS, os._exit, (CANCELLED,))
        forced.daemon = True
        forced.start()
        log.warning("stopping at once")
        pipeline.cancel()

    if not (config.jsonl or config.video or config.pictures or config.display):
        log.info(
            "no output was asked for: --jsonl, --video, --pictures and --display keep or show detections"
        )
    plain = not on_terminal(console) or config.log_format == "json"
    ran = False
    # A terminal that is closed says so in the same way: there it ends the run.
    reloader = Reloader(pipeline, read, path, watch=watch, seen=seen) if path is not None else None
    hangup = reloader.ask if reloader is not None else _nothing_to_read
    reading = watch or not ON_TERMINAL
    with signals(first=stop, second=cancel, hangup=hangup if reading else None):
        try:
            with pipeline:
                progress = None if config.quiet else ProgressDisplay(pipeline, console, plain=plain)
                with progress or nullcontext(), reloader or nullcontext():
                    ran = True
                    pipeline.run()
        finally:
            if ran:
                figures = summarize(pipeline)
                captured = any(one["captured"] for one in figures["streams"].values())
                failed = sys.exc_info()[1] is not None  # which says it all where nothing was captured
                try:
                    if config.summary is not None:
                        _write(write_summary, config.summary, figures)
                finally:
                    if config.log_format == "json":
                        log.info("summary", extra={"data": figures})
                    elif progress is not None and not progress.hangs and (captured or not failed):
                        with suppress(OSError):  # a terminal that has gone
                            with console.capture() as tables:
                                print_summary(figures, console)
                            logs.say(tables.get())
    if pipeline.flow is not None and pipeline.flow.cancelled:
        raise typer.Exit(CANCELLED)
    failures = [account.error for account in pipeline.accounts.streams.values() if account.error is not None]
    if failures and not interrupted.is_set():
        # Each was logged when it happened.
        raise typer.Exit(max(error.exit_code for error in failures))
    asked = any(account.link.state != "paused" for account in pipeline.accounts.streams.values())
    if config.duration is not None and asked and not (captured or interrupted.is_set()):
        log.error("no source gave a picture in the %g s that were given", config.duration)
        raise typer.Exit(SourceOpenError.exit_code)


def _nothing_to_read() -> None:
    log.warning("SIGHUP: there is no config file to go by anew, the run goes on; SIGTERM ends it")


def _write(write: Callable[[str, dict[str, Any]], None], path: str, figures: dict[str, Any]) -> None:
    """Write the summary; where an error is under way already, it is not hidden by one of the summary."""
    failing = sys.exc_info()[1] is not None
    try:
        write(path, figures)
    except PipelineError as error:
        if not failing:
            raise
        log.error("%s", error)
