"""The tables of ``docs/reliability.md``, made from the results that are kept.

``python -m benchmarks.reliability`` writes them; ``--check`` says with its exit code whether they are
up to date. Each result holds ``limits``: what was promised, what was measured, and whether it holds; and some
more of what was done, for the line above the table. That of ``overload`` is one of ``benchmarks.live``, with
a ``max_age_ms``; that of ``adaptive``, which promises nothing, has a table of its own.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from benchmarks import adaptive
from benchmarks.readme import ROOT, newest

DOCS = ROOT / "docs" / "reliability.md"
_PLACE = re.compile(
    r"<!-- made by benchmarks\.reliability: ([\w-]+) -->\n.*?<!-- until here -->\n", re.DOTALL
)


def table(found: dict[str, Any]) -> str:
    """Markdown of a result's limits, with the machine, the date, and what was done."""
    about = found["machine"]
    done = "".join(f"; {each}" for each in details(found))
    rows = [f"{about['cores']} cores of an {about['cpu']}, {about['date'][:10]}{done}:", ""]
    if "limits" not in found:
        return "\n".join(rows) + "\n" + adaptive.table(found)
    rows += [
        "| | measured | limit | |",
        "|---|---|---|---|",
    ]
    for each in found["limits"]:
        verdict = "holds" if each["holds"] else "**broken**"
        measured, limit = (
            (each["measured"], each["limit"]) if "measured" in each else (each["value"], each["at_most"])
        )
        rows.append(f"| {each['what']} | {measured:.3g} | {limit:g} | {verdict} |")
    return "\n".join(rows) + "\n"


def details(found: dict[str, Any]) -> list[str]:
    """What a result says beside its limits: the clip, how long, how many faults, what became of the cases."""
    said = [found["clip"]["description"]] if "clip" in found else []
    if "happened" in found:
        said.append(f"{found['seconds'] / 60:.0f} minutes, {sum(found['happened'].values())} faults")
    for kind in ("videos", "models", "configs"):
        if kind in found:
            outcomes = found[kind]["outcomes"].items()
            said.append(
                f"{kind}: " + ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes))
            )
    return said


def filled(text: str) -> str:
    """``text`` with each table made anew."""

    def fill(place: re.Match[str]) -> str:
        kind = place[1]
        made = table(newest(f"*-{kind}.json"))
        return f"<!-- made by benchmarks.reliability: {kind} -->\n{made}<!-- until here -->\n"

    return _PLACE.sub(fill, text)


def main() -> None:
    """Write the tables, or compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    before = DOCS.read_text(encoding="utf-8")
    after = filled(before)
    if options.check:
        sys.exit(0 if before == after else f"{DOCS.name} is not up to date: python -m benchmarks.reliability")
    DOCS.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
