"""Make the peers' virtual environments: ``python -m benchmarks.peers.setup [ENVIRONMENT …]``.

Each gets exactly the versions of its file in ``constraints/``. One that cannot be made is no error for
the others: the reason is kept, and ``python -m benchmarks.peers`` says it. pip is used as it is set up
here, by its own files and variables. Ultralytics is under the AGPL and is installed only by this, for you.

About 15 GB in all on Linux, where torch, which ultralytics and roboflow need, brings CUDA's libraries (a
build without CUDA does not go with the torchvision of the registry). Name the environments that are wanted
to have fewer: plain, supervision, openvino, ultralytics, roboflow.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.table import ENVIRONMENTS, HERE, Environment

VENVS = HERE / ".venvs"
PIP = ("-m", "pip", "--disable-pip-version-check")
# pip itself is no part of what is measured, and "+cpu" and the like are builds of one version.
_UNPINNED = ("pip", "setuptools", "wheel")


class SetupError(Exception):
    """An environment that cannot be made, and why."""


def main() -> int:
    """Make what is asked for; 0 when all of it is there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.setup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("environments", nargs="*", metavar="ENVIRONMENT", help="default: all")
    parser.add_argument("--venvs", type=Path, default=VENVS, help="the folder to make them in")
    parser.add_argument("--python", default=sys.executable, help="the Python to make them with")
    parser.add_argument(
        "--freeze",
        action="store_true",
        help="write the installed versions to constraints/ instead",
    )
    asked = parser.parse_args()
    unknown = [name for name in asked.environments if name not in ENVIRONMENTS]
    if unknown:
        parser.error(f"no environment {unknown[0]!r}; there are: {', '.join(ENVIRONMENTS)}")
    failed = 0
    for name in asked.environments or ENVIRONMENTS:
        environment = ENVIRONMENTS[name]
        try:
            if asked.freeze:
                freeze(environment, asked.venvs)
            else:
                make(environment, asked.venvs, asked.python)
        except SetupError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed += 1
        else:
            print(f"{name}: ready")
    return min(failed, 1)


def make(environment: Environment, venvs: Path, base: str) -> None:
    """Make or complete one. Raises SetupError, whose text is kept beside it."""
    python, failure = environment.python(venvs), environment.failure(venvs)
    venvs.mkdir(parents=True, exist_ok=True)
    try:
        if not python.exists():
            print(f"{environment.name}: making", file=sys.stderr)
            _run([base, "-m", "venv", str(venvs / environment.name)])
        constraints = ["--constraint", str(environment.constraints)]
        _run([str(python), *PIP, "install", "--quiet", *constraints, *environment.requirements])
        if not _runs(python, "import cv2"):
            # opencv-python needs libGL and friends, which servers and slim images lack.
            _run([str(python), *PIP, "uninstall", "--quiet", "--yes", "opencv-python"])
            _run([str(python), *PIP, "install", "--quiet", *constraints, "opencv-python-headless"])
        _run([str(python), "-c", f"import {environment.check}"])
    except SetupError as error:
        failure.write_text(f"{error}\n", encoding="utf-8")
        raise
    failure.unlink(missing_ok=True)


def freeze(environment: Environment, venvs: Path) -> None:
    """Write the versions that are installed to the environment's constraints. Raises SetupError."""
    listed = _run([str(environment.python(venvs)), *PIP, "list", "--format", "freeze"]).splitlines()
    pins = {}
    for line in listed:
        name, _, version = line.partition("==")
        if name not in _UNPINNED:
            pins[name] = version.partition("+")[0]
    if "opencv-python" in pins:
        pins.setdefault("opencv-python-headless", pins["opencv-python"])
    text = "".join(f"{name}=={pins[name]}\n" for name in sorted(pins, key=str.casefold))
    environment.constraints.parent.mkdir(exist_ok=True)
    environment.constraints.write_text(text, encoding="utf-8")


def _runs(python: Path, code: str) -> bool:
    return subprocess.run([str(python), "-c", code], capture_output=True).returncode == 0


def _run(command: list[str]) -> str:
    """What a command prints. Raises SetupError with the last line that it said of its failure."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise SetupError(f"cannot run {command[0]}: {error.strerror}") from None
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said[-1:]
        raise SetupError(f"{' '.join(command[1:4])} … failed: {errors[-1] if errors else 'no word on why'}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
