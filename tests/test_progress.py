"""How far a long piece of work is, said where there is no terminal too."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from pipeline.progress import progress


@pytest.mark.parametrize("variable", ["", "FORCE_COLOR", "TTY_COMPATIBLE"])
@pytest.mark.parametrize(("total", "says"), [(3, "look: 1 of 3\n"), (None, "look: 1\n")])
def test_in_a_log_a_line_now_and_then(total, says, variable, monkeypatch):
    """Also in one that may be coloured."""
    if variable:
        monkeypatch.setenv(variable, "1")
    shown = io.StringIO()
    seen = []
    for item in progress(Console(file=shown), "look", [10, 20, 30], total, every=0.05):
        seen.append(item)
        if item == 10:
            time.sleep(0.06)
    assert seen == [10, 20, 30]
    assert shown.getvalue() == says


def test_what_is_quickly_done_says_nothing():
    shown = io.StringIO()
    assert list(progress(Console(file=shown), "look", range(5), 5)) == list(range(5))
    assert shown.getvalue() == ""
