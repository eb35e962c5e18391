"""``framerail models pull``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import progress
from rich.console import Console

from pipeline.errors import ModelError
from pipeline.printable import json_text, on_terminal
from pipeline.runtime.card import read_card, sha256_of
from pipeline.runtime.catalog import FOLDER_VARIABLE, cards, file_of, find_card, user_dir
from pipeline.runtime.download import download
from pipeline.runtime.partfile import FolderError, sweep


def pull(names: Sequence[str], folder: str | None, out: Console, err: Console, *, as_json: bool) -> None:
    """Download the files of the named cards, or of ``all`` that have an address; say where each is.

    ``folder``: where to, None for the user's folder (``catalog.user_dir``). Every one is tried before what
    failed is raised: a ModelError, or a group of several. A folder that fails ends it at once. As JSON, the
    ``status`` of each is downloaded, present or failed (with ``error``).
    """
    where = user_dir(folder)
    rows, errors = [], []
    taken: dict[Path, str] = {}
    wanted = _wanted(names, folder)
    for name, path in wanted.items():
        try:
            rows.append(_pull(name, path, where, folder, err, taken))
        except FolderError:
            raise
        except KeyboardInterrupt:
            err.print(f"{name}: what has come of it is kept; pulling it again goes on from there")
            raise
        except ModelError as error:
            errors.append(error)
            rows.append({"name": name, "status": "failed", "path": None, "error": str(error)})
        if not as_json and rows[-1]["path"] is not None:
            done = "was here already" if rows[-1]["status"] == "present" else "downloaded"
            out.print(f"{name}: {done}: {rows[-1]['path']}", soft_wrap=True, highlight=False)
    if as_json:
        print(json_text(rows))
    else:
        come = [wanted[row["name"]] for row in rows if row["status"] == "downloaded"]
        if come and where != user_dir():
            shown = shlex.quote(str(where))
            err.print(
                f"to have them found there, set {FOLDER_VARIABLE}={shown}", soft_wrap=True, highlight=False
            )
        known = cards(folder).values()
        for card_path in (path for path in come if path not in known):
            # Its file alone was fetched: no name leads to a card that lies elsewhere.
            shown = shlex.quote(str(card_path))
            err.print(f"to use it, give its card: --model {shown}", soft_wrap=True, highlight=False)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(f"{len(errors)} models cannot be had", errors)


def _wanted(names: Sequence[str], folder: str | None) -> dict[str, Path]:
    """Cards by the names they were asked by. Raises ModelError for a name that is none."""
    if "all" not in names:
        return {name: find_card(name, folder) for name in names}
    every = cards(folder)
    return {name: path for name, path in every.items() if _is_for_download(path)} | {
        name: find_card(name, folder) for name in names if name != "all"
    }


def _is_for_download(card_path: Path) -> bool:
    try:
        return bool(read_card(card_path).urls)
    except ModelError:
        # Kept, so that pulling it says what is wrong with it.
        return True


def _pull(
    name: str, card_path: Path, where: Path, folder: str | None, err: Console, taken: dict[Path, str]
) -> dict[str, Any]:
    """One model. ``taken``: files of this call that are right, by the names they were asked by."""
    card = read_card(card_path)
    here = file_of(card, card_path, folder)
    try:
        right = here is not None and card.sha256 in (None, sha256_of(here))
    except OSError as error:
        raise ModelError(f"model {name!r}: cannot read {here}: {error.strerror}") from None
    status = "present" if right else "downloaded"
    if not right and here is not None and here.parent != where:
        raise ModelError(
            f"model {name!r}: {here}, beside its card, is not the file that the card names; remove it first"
        )
    if not right and (other := taken.get(where / card.file)) is not None:
        raise ModelError(
            f"model {name!r}: its file {card.file} is in {where} already as that of {other!r}, which is "
            "another one; rename the file in one of the two cards"
        )
    if not right:
        with _shown_progress(name, card.bytes, err) as advance:
            here = download(card, where, advance)
    elif here == where / card.file and card.sha256 is not None:
        sweep(here, card.sha256, done=True)
    if here is not None:
        taken[here] = name
    return {
        "name": name,
        "status": status,
        "path": str(here),
        "sha256": card.sha256,
        "bytes": here.stat().st_size if here else None,
    }


@contextmanager
def _shown_progress(name: str, size: int | None, err: Console) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar for the bytes that have come; nothing where there is no terminal."""
    if not on_terminal(err):
        yield lambda _done, _total: None
        return
    with progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=err,
        transient=True,
    ) as bars:
        bar = bars.add_task(name, total=size)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
