"""Text of others without what moves a terminal's cursor or gives it orders: labels, names, servers' words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def printable(text: str, keep: str = "") -> str:
    """``text`` with what is not printable, but for ``keep``, written as Python escapes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def json_text(data: Any) -> str:
    """JSON for people and programs: letters of all scripts as they are, what is not printable escaped."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def on_terminal(console: Console) -> bool:
    """Whether somebody sees it on a terminal: rich's ``is_terminal`` says whether it may be coloured, which
    FORCE_COLOR makes true of a log file, too."""
    return console.is_terminal and console.file.isatty()
