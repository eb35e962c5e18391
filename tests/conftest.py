"""Fixtures that every room's tests share."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from rich.console import Console

import pipeline  # noqa: F401 - before any test loads ONNX Runtime: it turns the telemetry off

if hasattr(signal, "SIGHUP"):  # which nohup has ignored, and commands that are started inherit that
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A loaded machine is no reason to fail: what is slow shows in the durations.
settings.register_profile("framerail", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("framerail")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models, clips and labelled images, which is not part of the project."""
    folder = Path(os.environ.get("FRAMERAIL_ASSETS", ROOT.parent / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip(f"needs real models and clips: no folder {folder} (set FRAMERAIL_ASSETS)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models that a developer has pulled, or tuned, must not change what the tests see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMERAIL_MODELS", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("FRAMERAIL_PROFILES", str(tmp_path_factory.mktemp("profiles")))
        yield


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    """Every thread that a test starts is joined by the end of it."""
    before = set(threading.enumerate())
    yield
    stayed = [thread for thread in threading.enumerate() if thread not in before]
    for thread in stayed:
        thread.join(5)
    alive = [thread.name for thread in stayed if thread.is_alive()]
    assert not alive, f"threads were left behind: {alive}"


@pytest.fixture
def quiet() -> Console:
    """A console that nobody sees."""
    return Console(file=io.StringIO())


@pytest.fixture(scope="session")
def cheap_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real ONNX model that answers at once: one `thing0` of .9 in the middle of every picture."""
    from benchmarks.cheap_model import write_cheap_model

    return str(write_cheap_model(tmp_path_factory.mktemp("models") / "cheap.onnx"))
