"""How a benchmark that promises something ends: limits printed and kept, exit code 1 where one is broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

Row = tuple[str, float, float, bool]
"""What is promised, what was measured, the limit, and whether it holds."""


def end(found: dict[str, Any], rows: Iterable[Row], path: str | None) -> NoReturn:
    """Print ``rows``, write ``found`` with them as its ``limits`` where a ``path`` is given, and exit."""
    found["limits"] = [
        {"what": what, "measured": value, "limit": limit, "holds": holds}
        for what, value, limit, holds in rows
    ]
    for each in found["limits"]:
        verdict = "holds" if each["holds"] else "BROKEN"
        print(f"{each['what']}: {each['measured']:.4g} (limit {each['limit']:g}) {verdict}")
    if path:
        Path(path).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(each["holds"] for each in found["limits"]) else 1)
