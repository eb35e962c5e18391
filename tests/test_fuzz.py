"""The short form of ``benchmarks.fuzz``: a few hundred damaged files of each kind."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fuzz


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("kind", "count"), [("videos", 300), ("configs", 150), ("models", 4)])
def test_nothing_but_errors_of_ours_comes_of_damaged_files(kind: str, count: int) -> None:
    found = fuzz.fuzz(kind, count, first=10_000, seed=1)
    assert found["failures"] == []
    assert sum(found["outcomes"].values()) == count
    assert found["outcomes"]["refused"] > 0
    assert len(found["outcomes"]) > 1 or kind == "models"


def test_what_is_not_fine_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case that raises, one that ends its process, one that hangs; the cases after each go on."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "from benchmarks import fuzz\n"
        "def case(path):\n"
        "    what = path.read_text()\n"
        "    if what == 'raise': raise KeyError(what)\n"
        "    if what == 'crash': os.abort()\n"
        "    if what == 'hang': time.sleep(60)\n"
        "    return 'fine'\n"
        "fuzz.CASES['configs'] = case\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}")
    child = fuzz.Child("configs")
    outcomes = []
    try:
        for what in ("fine", "raise", "fine", "crash", "fine", "hang", "fine"):
            path = tmp_path / "case"
            path.write_text(what)
            monkeypatch.setattr(fuzz, "LIMIT_SECONDS", 1.5 if what == "hang" else 30)
            outcomes.append(child.open(path).split(" ")[0])
    finally:
        child.close()
    assert outcomes == ["fine", "UNCAUGHT", "fine", "CRASHED", "fine", "HUNG", "fine"]


@given(st.binary(min_size=16, max_size=4000), st.integers(0, 1000))
def test_a_case_is_made_of_its_number_alone(data: bytes, number: int) -> None:
    made = [fuzz.mutated(data, random.Random(f"1/{number}")) for _ in range(2)]
    assert made[0] == made[1]
