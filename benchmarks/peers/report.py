"""The result as a table for people, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.peers.table import OURS, TUNED

DISTURBED = 0.1
"""Cores that others used, from which on figures are not to be kept."""
WORDS = {OURS: "framerail ÷ it", TUNED: "tuned ÷ it"}


def markdown(report: Mapping[str, Any]) -> str:
    """The whole of it."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    machine, clip, asked = report["machine"], report["clip"], report["settings"]
    yield f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}"
    yield (
        f"{report['model']['name']} on {clip['name']} ({_kind(clip)}), {asked['frames']} frames after "
        f"{asked['warm_up']}, {asked['rounds']} interleaved rounds; medians (least to most)"
    )
    yield ""
    ours = [name for name in WORDS if name in report["peers"]]
    yield "| " + " | ".join(
        [
            "",
            "frames/s",
            "CPU ms a frame",
            "cores",
            *(WORDS[name] for name in ours),
            "detections as plain's |",
        ]
    )
    yield "|---" * (5 + len(ours)) + "|"
    for name, peer in report["peers"].items():
        measured = ["–"] * (3 + len(ours))
        if "fps" in peer:
            ratios = ("" if each == name else _spread(peer["ratios"][each], 2) for each in ours)
            measured = [
                _spread(peer["fps"], 1),
                f"{peer['cpu_ms_per_frame']['median']:.1f}",
                f"{peer['cores_used']['median']:.2f}",
                *ratios,
            ]
        bound = " (frames in no order)" if peer["bound"] else ""
        yield f"| {' | '.join([peer['what'] + bound, *measured, _agreement(peer)])} |"
    yield ""
    for name, peer in report["peers"].items():
        yield f"{name}: " + ", ".join(f"{package} {version}" for package, version in peer["versions"].items())
    for why in report["skipped"].values():
        yield f"skipped: {why}"
    for note in report["notes"]:
        yield f"note: {note}"


def _kind(clip: Mapping[str, Any]) -> str:
    return f"{clip['codec']} {clip['width']}x{clip['height']}"


def _spread(found: Mapping[str, float], digits: int) -> str:
    return f"{found['median']:.{digits}f} ({found['min']:.{digits}f}–{found['max']:.{digits}f})"


def _agreement(peer: Mapping[str, Any]) -> str:
    found = peer["agreement"]
    if found is None:
        return "tuned: see eval"
    if found["equal"]:
        return f"{found['share']:.2%}"
    return f"no: {found['share']:.2%}" + (f" ({peer['differs']})" if peer["differs"] else "")


def notes(report: Mapping[str, Any]) -> Iterator[str]:
    """What a reader has to know before the figures are believed."""
    clip = report["clip"]
    if (clip["codec"], clip["height"]) != ("h264", 1080):
        yield f"the published figures are of 1080p H.264; this clip is {_kind(clip)}"
    others = [peer["others_cores"]["max"] for peer in report["peers"].values() if peer.get("others_cores")]
    if others and max(others) > DISTURBED:
        yield (
            f"disturbed: other processes, or the host's other machines, used up to {max(others):.2f} cores; "
            "measure again on a quiet machine"
        )
    for name, peer in report["peers"].items():
        if peer["agreement"] is not None and not peer["agreement"]["equal"] and not peer["differs"]:
            yield f"{name} does not detect what the plain loop does: its rate is no comparison"
