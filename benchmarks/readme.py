"""The README's table, made from the results that are kept.

``python -m benchmarks.readme`` writes it; ``--check`` says with its exit code whether it is up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.table import OURS, TUNED

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
LINE, PEERS = "*-two-core-*.json", "*-peers.json"
BEGIN, END = "<!-- made by benchmarks.readme -->\n", "<!-- until here -->\n"


def table(line: dict[str, Any], peers: dict[str, Any]) -> str:
    """Markdown of what a newcomer wants to know: how fast beside others, and what the line itself takes."""
    about, default = peers["machine"], line["default"]
    what = (
        f"{peers['model']['name'].partition('.')[0]} on {peers['clip']['height']}p {peers['clip']['codec']}"
    )
    where = f"{about['cores']} cores of an {about['cpu']}, {about['date'][:10]}"
    agreed = [peer["agreement"]["equal"] for peer in peers["peers"].values() if peer["agreement"] is not None]
    equal = "detections equal" if all(agreed) else "**detections not equal**"
    how = f"medians of {peers['settings']['rounds']} interleaved rounds, {equal}"
    rows = [
        f"{what}, {where}; {how}:",
        "",
        "| | frames/s | framerail is |",
        "|---|---|---|",
    ]
    for name, peer in peers["peers"].items():
        if "fps" not in peer:
            continue
        what = peer["what"]
        if name in (OURS, TUNED):
            what = f"**framerail**{what.removeprefix('framerail')}{_tuned(peer)}"
        bound = ", frames in no order" if peer["bound"] else ""
        ratio = "" if name in (OURS, TUNED) else f"{peer['ratios'][OURS]['median']:.2f} x as fast"
        if name == TUNED:
            ratio = f"{1 / peer['ratios'][OURS]['median']:.2f} x itself"
            if (ultralytics := peers["peers"].get("ultralytics")) is not None and "fps" in ultralytics:
                ratio += f", {ultralytics['ratios'][TUNED]['median']:.2f} x Ultralytics"
        rows.append(f"| {what}{bound} | {peer['fps']['median']:.1f} | {ratio} |")
    nothing = line["nothing"]
    there = f"{line['machine']['cores']} cores of an {line['machine']['cpu']}, {line['date'][:10]}"
    rows += [
        "",
        f"On {there}, the default model on the bundled 720p clip:",
        f"{default['fps']:.0f} frames/s, {default['ratio']:.2f} of the bound, cores ÷ CPU of all stages.",
        "A line whose model does nothing:",
        f"{nothing['fps']:,.0f} frames/s, {nothing['cpu_us_per_frame']:.0f} µs of CPU a frame.",
    ]
    return "\n".join(rows) + "\n"


def _tuned(peer: dict[str, Any]) -> str:
    """What tune chose, and what that loses."""
    if (profile := peer["profile"]) is None:
        return ""
    copy = "int8, " if "int8" in profile.get("model", "") else ""
    return f" ({copy}{profile['ap_loss']:.3f} AP lost)"


def newest(pattern: str) -> dict[str, Any]:
    """The latest of the results that are kept (their names begin with the date)."""
    found: dict[str, Any] = json.loads(max(RESULTS.glob(pattern)).read_text(encoding="utf-8"))
    return found


def written() -> str:
    """The README with the table as it should be."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table(newest(LINE), newest(PEERS)) + END + after


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        sys.exit(written() != README.read_text(encoding="utf-8"))
    README.write_text(written(), encoding="utf-8")


if __name__ == "__main__":
    main()
