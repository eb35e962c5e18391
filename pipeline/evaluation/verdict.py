"""Whether what was measured is good enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.objects import PREFIXES

MOST_LOST = 0.01
"""AP that a copy may lose unless said otherwise: less than the eye sees, more than rounding moves (.002)."""


def compare(report: dict[str, Any], whole: Mapping[str, Any]) -> None:
    """Add what the original model has to a report: ``original``, its APs; ``loss``, how much of each is gone.

    What the original answers and the model does not is all gone.
    """
    was = {key: float(whole[key]) for key in _KEYS if whole.get(key) is not None}
    report["original"] = {**whole["model"], **was}
    report["loss"] = {key: round(value - (report.get(key) or 0.0), 6) for key, value in was.items()}


def objections(report: Mapping[str, Any], min_ap: float | None, max_ap_loss: float | None) -> list[str]:
    """Why a model is not accepted, one sentence each; empty where nothing speaks against it."""
    against = []
    if min_ap is not None and (low := _low(report, min_ap)):
        figures = ", ".join(
            f"{key} {'(not measured)' if value is None else f'{value:.4f}'}" for key, value in low.items()
        )
        against.append(f"{figures} is below the least asked for, {min_ap}")
    limit = MOST_LOST if max_ap_loss is None else max_ap_loss
    for key, lost in report.get("loss", {}).items():
        if lost > limit:
            against.append(
                f"{key} {report.get(key) or 0.0:.4f} is {lost:.4f} below the {report['original'][key]:.4f} "
                f"of the original {report['original']['name']!r}; {limit} may be lost"
            )
    if report["damage"] and "original" not in report:
        against.append(f"{report['damage']}; --original MODEL measures what it has lost")
    return against


_KEYS = tuple(f"{prefix}AP" for prefix in PREFIXES.values())


def _low(report: Mapping[str, Any], min_ap: float) -> dict[str, float | None]:
    """The APs that are measured and below the least, and what counts as such: boxes where there was nothing
    to find, and what the reference answers and the model does not.
    """
    measured = {key: report.get(key) for key in _KEYS}
    return {
        key: value
        for key, value in measured.items()
        if (key == "AP" or key in report["lost"] if value is None else value < min_ap)
    }
