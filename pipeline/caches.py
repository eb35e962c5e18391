"""Where this user keeps what can be had again: models, engines, profiles."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder(kind: str, variable: str) -> Path | None:
    """The folder for ``kind`` of things, whether or not it is there yet; None where there is no home.

    What the environment ``variable`` says, else ``framerail/KIND`` in the platform's folder for caches
    (XDG_CACHE_HOME or ~/.cache; ~/Library/Caches; %LOCALAPPDATA%).
    """
    stated = os.environ.get(variable)
    if stated:
        return Path(os.path.abspath(os.path.expanduser(stated)))
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser(r"~\AppData\Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        # The XDG base directory specification: a path that is not absolute is to be ignored.
        xdg = os.environ.get("XDG_CACHE_HOME", "")
        base = xdg if os.path.isabs(xdg) else os.path.expanduser("~/.cache")
    return Path(base) / "framerail" / kind if os.path.isabs(base) else None
