"""The short form of ``benchmarks.company``: well cameras beside faulty ones."""

from __future__ import annotations

import copy

import pytest

from benchmarks import company


@pytest.mark.timeout(120)
def test_two_faults_alone_and_together(cheap_model: str) -> None:
    asked = company.parser().parse_args(["--kinds", "stall,reset", "--seconds", "3", "--model", cheap_model])
    found = company.measure(asked)
    assert [each["kinds"] for each in found["trials"]] == [(), ("stall",), ("reset",), ("stall", "reset")]
    assert [set(each["injected"]) for each in found["trials"]] == [
        set(), {"stall"}, {"reset"}, {"stall", "reset"}
    ]  # fmt: skip
    assert all(each["frames_of_ill"] for each in found["trials"])
    # How many frames come and how old they are is for a quiet machine to say.
    timed = {what for what, *_ in company.limits(found) if what.startswith(("least rate", "p99 age"))}
    broken = {what for what, _, _, holds in company.limits(found) if not holds}
    assert len(timed) == 3 and broken <= timed


FINE = {"kinds": ("stall",), "rate": 1.0, "p99_ms": 8.0, "reconnects_of_well": 0, "conserved": True,
        "injected": {"stall": 4}, "threads_left": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, []),
        ({"rate": 0.97}, ["least rate of a well camera ÷ its own, 1 trials"]),
        ({"p99_ms": 11.0}, ["p99 age of well cameras, median ÷ that without faults"]),
        ({"reconnects_of_well": 1}, ["connections of well cameras that were lost"]),
        ({"conserved": False}, ["trials with frames unaccounted for"]),
        ({"injected": {"stall": 0}}, ["faults alone that did not happen"]),
        (
            {"kinds": ("stall", "drop"), "injected": {"stall": 4}},
            ["share of 1 pairs in which both happened"],
        ),
        ({"threads_left": 1}, ["threads left behind"]),
    ],
)
def test_each_limit_is_broken_by_what_it_is_for(wrong, said) -> None:
    without = copy.deepcopy(FINE) | {"kinds": (), "injected": {}}
    found = {"trials": [without, copy.deepcopy(FINE) | wrong]}
    assert [what for what, _, _, holds in company.limits(found) if not holds] == said


def test_a_frame_that_does_not_come_is_missed() -> None:
    came = [(n / company.FPS, 0.01) for n in range(100)]
    end = 100 / company.FPS
    assert company.share_of_due(came, end) == 1.0
    assert company.share_of_due(came[:50] + came[60:], end) == pytest.approx(0.9)
    assert company.share_of_due(came[:50], end) == pytest.approx(0.5)
    assert company.p99([float(n) for n in range(1, 101)]) == 99.0
