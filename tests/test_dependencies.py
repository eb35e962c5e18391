"""Packages that are missing, doubled or cannot load: one line with the remedy, exit code 3.

Each runs in a process of its own that really imports; what is broken stands on PYTHONPATH before
the real packages, as a broken installation would be found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import dependencies

NO_MODULE = "raise ModuleNotFoundError(\"No module named '{0}'\", name='{0}')\n"


def broken_module(folder: Path, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(code)


def framerail(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(dependencies.__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(root)])},
    )


def break_cv2(folder: Path) -> None:
    broken_module(folder, "cv2", 'raise ImportError("libGL.so.1: cannot open shared object file")\n')


def remove_cv2(folder: Path) -> None:
    broken_module(folder, "cv2", NO_MODULE.format("cv2"))


def remove_runtime(folder: Path) -> None:
    broken_module(folder, "onnxruntime", NO_MODULE.format("onnxruntime"))


def double_runtime(folder: Path) -> None:
    info = folder / "onnxruntime_gpu-1.99.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.99\n")


CASES = [
    (break_cv2, ["cv2 cannot be loaded: libGL.so.1", "opencv-python-headless", "libgl1"]),
    (remove_cv2, ["OpenCV is not installed", "framerail[edge]"]),
    (remove_runtime, ["ONNX Runtime is not installed", "framerail[cpu]"]),
    (
        double_runtime,
        ["onnxruntime and onnxruntime-gpu are installed together", "pip uninstall -y onnxruntime"],
    ),
]


@pytest.mark.parametrize(("damage", "says"), CASES)
@pytest.mark.parametrize(
    "command", [["run", "synthetic:64x48?frames=1"], ["models", "list"], ["models", "info", "nanodet-g"]]
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, damage: Callable[[Path], None], says: list[str], command: list[str]
) -> None:
    damage(tmp_path)
    done = framerail(tmp_path, *command)
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    for text in says:
        assert text in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("damage", "says"), CASES)
def test_help_and_doctor_work_all_the_same(tmp_path: Path, damage, says: list[str]) -> None:  # type: ignore[no-untyped-def]
    damage(tmp_path)
    assert framerail(tmp_path, "--help").returncode == 0
    done = framerail(tmp_path, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert says[0].split(":")[0] in done.stdout


def test_the_python_api_says_it_too(tmp_path: Path) -> None:
    break_cv2(tmp_path)
    root = Path(dependencies.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", "from pipeline import Detector"],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])},
    )
    assert done.stderr.splitlines()[-1].startswith(
        "pipeline.errors.DependencyError: cv2 cannot be loaded: libGL"
    )


def test_exactly_one_runtime_is_here() -> None:
    assert len(dependencies.installed(dependencies.RUNTIMES)) == 1
    dependencies.check()
