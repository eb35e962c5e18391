"""The command in a process of its own, forked from one that has imported the libraries already.

A fresh interpreter takes a second of CPU to import OpenCV, ONNX Runtime and PyAV: for hundreds of commands
that was a third of the suite. What a fresh interpreter does differently (imports, the environment it begins
with, signals, closed standard files) is tested with real ones.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

_PRELOADED = ("tests.command", "pipeline.cli.main", "pipeline.app", "cv2", "onnx", "onnxruntime", "av")


def fresh(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The same in an interpreter of its own, with the options of ``subprocess.run``."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        **options,
    )


def framerail(
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 50,
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run`` of ``framerail ARGUMENTS`` with captured text and nothing to read."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
        process = _Process(arguments, str(cwd or os.getcwd()), dict(env or os.environ), (nothing, out, err))
        child = context.Process(target=process)
        child.start()
        child.join(timeout)
        if child.exitcode is None:
            child.kill()
            child.join()
            raise subprocess.TimeoutExpired(arguments, timeout, _read(out), _read(err))
        assert child.exitcode is not None
        said, told = _read(out).decode(), _read(err).decode()
        return subprocess.CompletedProcess(arguments, child.exitcode, said, told)


class _Process:
    """What the forked child does; its files go there while it is started."""

    def __init__(self, arguments: Sequence[str], cwd: str, env: dict[str, str], files: Sequence[Any]) -> None:
        self._arguments, self._cwd, self._env, self._files = arguments, cwd, env, files

    def __getstate__(self) -> tuple[Any, ...]:
        return self._arguments, self._cwd, self._env, [DupFd(file.fileno()) for file in self._files]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._arguments, self._cwd, self._env, self._files = state

    def __call__(self) -> None:
        for number, file in enumerate(self._files):
            os.dup2(file.detach(), number)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(self._env)
        os.chdir(self._cwd)
        sys.argv = ["framerail", *self._arguments]
        runpy.run_module("pipeline", run_name="__main__", alter_sys=True)


def _read(file: Any) -> bytes:
    file.seek(0)
    content: bytes = file.read()
    return content
