"""Ask PyPI's advisory database about every pinned version; the exit code is 0 only where all were answered.

pip-audit by itself ends with 0 and "No known vulnerabilities found" also for packages that it could not ask
about. Exit codes: 0 none known, 1 some known, 3 not audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 3


def verdict(report: dict[str, Any], pinned: set[str]) -> tuple[int, list[str]]:
    """Exit code and lines for pip-audit's JSON, in which each of ``pinned`` should have an answer."""
    lines, answered = [], set()
    for each in report["dependencies"]:
        if "skip_reason" in each:
            continue
        answered.add(f"{each['name'].lower()}=={each['version']}")
        for found in each["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            lines.append(f"{each['name']} {each['version']}: {found['id']}, fixed in {fixed}")
    code = VULNERABLE if lines else CLEAN
    if silent := sorted(pinned - answered):
        lines.append(f"not audited: no answer for {len(silent)} of {len(pinned)}: {', '.join(silent[:5])} …")
        code = code or NOT_AUDITED
    return code, lines or [f"audited: nothing is known against {len(pinned)} pinned versions"]


def pins(text: str) -> set[str]:
    """NAME==VERSION of each line, with names as PyPI writes them."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    pairs = (line.partition("==") for line in lines if line)
    return {f"{name.lower().replace('_', '-').replace('.', '-')}=={version}" for name, _, version in pairs}


def main(path: str) -> int:
    """Audit the requirements in ``path``."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--progress-spinner",
            "off",
            "--disable-pip",
            "--no-deps",
        ]
        command += ["--requirement", path, "--format", "json", "--output", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.is_file():
            last = (done.stderr.strip() or "no reason given").splitlines()[-1]
            print(f"not audited: {last}", file=sys.stderr)
            return NOT_AUDITED
        code, lines = verdict(
            json.loads(report.read_text(encoding="utf-8")), pins(Path(path).read_text("utf-8"))
        )
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
