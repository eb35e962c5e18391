"""What only a GPU can show, on a machine that has one; skipped, and said to be, on any other.

Nothing here is a fake.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.cheap_model import write_cheap_model
from pipeline.doctor import one_node_model
from pipeline.errors import ProviderError
from pipeline.runtime import pinned
from pipeline.runtime.binding import Binding
from pipeline.runtime.model import Model, open_model
from pipeline.runtime.provider_table import PROVIDERS
from pipeline.runtime.providers import create_session, on_offer
from pipeline.sample import SAMPLE
from pipeline.sources import hardware
from tests.test_sources_hardware import opened


@pytest.fixture(scope="module", params=["cuda", "tensorrt"])
def provider(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name not in on_offer():
        pytest.skip(f"needs {name}: this build of ONNX Runtime has none")
    try:
        create_session(one_node_model(), name, 0, ort.SessionOptions())
    except ProviderError as error:
        pytest.skip(f"needs {name}: {error}")
    return name


@pytest.fixture(params=["0", "1"], ids=["no graphs", "graphs"])
def model(provider: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Model:
    monkeypatch.setenv("FRAMERAIL_ENGINES", str(tmp_path / "engines"))
    path = write_cheap_model(tmp_path / "m.onnx", echo=8.0, dynamic_batch=True)
    return open_model(str(path), provider, options={provider: {PROVIDERS[provider].graphs: request.param}})


def pictures(count: int, start: float) -> np.ndarray:
    reds = np.linspace(start, start + 0.4, count, dtype=np.float32)
    return np.broadcast_to(reds[:, None, None, None], (count, 3, 32, 32)).copy()


def test_a_binding_answers_as_the_cpu_does_run_after_run(model: Model) -> None:
    """Many runs with other pictures each: a graph that read an old address would give an old answer."""
    plain = open_model(str(model.session.path), "cpu").session
    binding = model.session.bound(4, model.spec)
    assert isinstance(binding, Binding)
    for number in range(24):
        blob = pictures(1 + number % 4, start=number / 40)
        for session in (binding, model.session):
            np.testing.assert_allclose(session.run(blob)[0], plain.run(blob)[0], atol=1e-2)


def test_workers_do_not_write_into_each_others_buffers(model: Model) -> None:
    plain = open_model(str(model.session.path), "cpu").session
    failures: list[Any] = []

    def work(start: float) -> None:
        for _ in range(50):
            blob = pictures(2, start)
            if not np.allclose(binding_of[start].run(blob)[0], plain.run(blob)[0], atol=1e-2):
                failures.append(start)

    binding_of = {start: model.session.bound(2, model.spec) for start in (0.0, 0.3, 0.6)}
    threads = [threading.Thread(target=work, args=[start]) for start in binding_of]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_session_confirms_what_it_was_started_with(model: Model) -> None:
    started = {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"}
    wanted = started if model.session.provider == "cuda" else {"device_id": "0"}
    assert wanted.items() <= model.session.options.items()


def test_host_buffers_are_page_locked(provider: str) -> None:
    assert provider
    assert pinned.pinned_zeros((1, 3, 64, 64), np.dtype(np.float32))[1]


def test_a_device_that_is_not_there(provider: str, cheap_model: str) -> None:
    with pytest.raises(ProviderError, match=r"\(device 99\) could not start"):
        open_model(cheap_model, provider, device=99)


def test_an_option_that_is_unknown(provider: str, cheap_model: str) -> None:
    with pytest.raises(ProviderError, match="knows no option 'nonsense'"):
        open_model(cheap_model, provider, options={provider: {"nonsense": "1"}})


def test_video_decoded_on_the_device_looks_as_on_the_cpu() -> None:
    if why := hardware.unavailable("cuda"):
        pytest.skip(f"needs cuda for video: {why}")
    with opened(SAMPLE, "cuda") as device, opened(SAMPLE, "none") as cpu:
        assert " decoded by cuda, " in device.description
        for number, (seen, expected) in enumerate(zip(device, cpu, strict=True)):
            assert seen.pts == expected.pts
            if number % 25 == 0:
                # H.264 is bit-exact; only the way from NV12 or planar YUV to BGR may round otherwise.
                assert np.abs(seen.image.astype(int) - expected.image).mean() < 1.5
