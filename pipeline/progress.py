"""How far a long piece of work is: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.printable import on_terminal

_T = TypeVar("_T")

PLAIN_SECONDS = 5.0


def progress(
    err: Console, what: str, items: Iterable[_T], total: int | None, every: float = PLAIN_SECONDS
) -> Iterator[_T]:
    """Pass the ``items`` on, of which there are ``total`` (None: nobody knows), and say how far ``what`` is.

    ``every``: seconds between lines where ``err`` is no terminal.
    """
    if on_terminal(err):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, transient=True) as bars:
            yield from bars.track(items, total=total, description=what)
        return
    said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - said >= every:
            said = now
            of = "" if total is None else f" of {total}"
            err.print(f"{what}: {done}{of}", highlight=False, soft_wrap=True)
        yield item
