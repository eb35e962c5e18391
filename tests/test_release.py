"""The release's own tools: an audit that did not happen is not called clean, and everything is pinned."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.audit import CLEAN, NOT_AUDITED, VULNERABLE, pins, verdict

ROOT = Path(__file__).resolve().parent.parent
GOOD = {"name": "numpy", "version": "2.0", "vulns": []}
BAD = {"name": "pillow", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
SKIPPED = {"name": "av", "skip_reason": "Dependency not found on PyPI and could not be audited: av (18.1.0)"}
PINNED = {"numpy==2.0", "pillow==1.0"}


def test_clean_is_said_only_where_all_were_answered() -> None:
    assert verdict({"dependencies": [GOOD]}, {"numpy==2.0"})[0] == CLEAN
    code, lines = verdict({"dependencies": [GOOD, SKIPPED]}, {"numpy==2.0", "av==18.1.0"})
    assert code == NOT_AUDITED
    assert "no answer for 1 of 2: av==18.1.0" in lines[0]
    assert verdict({"dependencies": []}, PINNED)[0] == NOT_AUDITED


def test_what_is_known_is_named_with_its_remedy() -> None:
    code, lines = verdict({"dependencies": [GOOD, BAD, SKIPPED]}, PINNED | {"av==18.1.0"})
    assert code == VULNERABLE
    assert lines[0] == "pillow 1.0: PYSEC-1, fixed in 1.1"
    assert "no answer for 1 of 3" in lines[1]


def test_names_are_compared_as_pypi_writes_them() -> None:
    assert pins("# why\nPyYAML==6.0.3\nml_dtypes==0.6.0  # for onnx\n") == {
        "pyyaml==6.0.3",
        "ml-dtypes==0.6.0",
    }


def test_without_pip_audit_it_says_that_nothing_was_audited(tmp_path: Path) -> None:
    (tmp_path / "pip_audit.py").write_text("raise SystemExit('no network')\n")
    (tmp_path / "pins.txt").write_text("numpy==2.0\n")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "audit.py", tmp_path / "pins.txt"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == NOT_AUDITED
    assert done.stderr == "not audited: no network\n"


@pytest.mark.parametrize("name", ["constraints.txt", "tools/release.txt", "tools/lowest.txt"])
def test_every_version_is_pinned(name: str) -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    assert any(lines)
    assert [line for line in lines if line and not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_what_security_md_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)`", text)
    assert len(named) >= 9
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (ROOT / link).is_file(), link
