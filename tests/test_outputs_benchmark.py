"""The benchmark of outputs that fail or block: a short run, and that what is wrong is found."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from benchmarks import outputs


@pytest.mark.timeout(120)
def test_each_fault_once(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("needs unshare, and user namespaces allowed to users")
    monkeypatch.setattr(outputs, "FRAMES", {"file": 600, "camera": 200})
    cases = [("full", "file", "go_on"), ("blocks", "camera", "end"), ("gone", "camera", "go_on")]
    found = outputs.measure(3, seed=3, cases=cases)
    assert found["faults"] == []
    assert list(found["runs"].values()) == [1, 1, 1]
    # A file's well output has all; of a camera a busy machine may drop some.
    assert found["shares"] and max(found["shares"]) == 1.0
    assert [holds for what, _, _, holds in outputs.limits(found) if what.startswith("faults")] == [True]


def test_each_limit_can_be_broken() -> None:
    fine = {"runs": {"full file end": 3}, "faults": [], "shares": [1.0, 0.99]}
    assert all(holds for *_, holds in outputs.limits(fine))
    for wrong in ({"faults": ["it hung"]}, {"shares": [1.0, 0.97]}):
        assert [holds for *_, holds in outputs.limits(fine | wrong)].count(False) == 1


def test_what_a_reader_read_is_looked_at() -> None:
    line = b'{"frame":0,"dropped_before":0}\n'
    later = b'{"frame":5,"dropped_before":4}\n'
    assert outputs._json_lines(line + later, cut=False) == []
    assert outputs._json_lines(line + later[:-9], cut=True) == []
    assert outputs._json_lines(line + later[:-9], cut=False) != []
    assert outputs._json_lines(line[:9] + b"\n" + later, cut=True) != []
    assert outputs._accounted(line + later) == []
    assert outputs._accounted(later) == ["5 frames told, 6 came"]
    assert outputs._accounted(line + later.replace(b"4", b"3")) == ["5 frames told, 6 came"]
