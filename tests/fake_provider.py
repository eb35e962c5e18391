"""A provider that is a fake, and says so: nodes run on the CPU, everything about it is made up.

It stands where ONNX Runtime stands, at ``InferenceSession``, so that all of the project's own code
runs as it would with an accelerator: options, devices, verification, I/O binding. It says
``FakeExecutionProvider`` wherever a provider is named; no result of it is one of an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxruntime as ort
import pytest

from pipeline.runtime import provider_table, providers, start
from pipeline.runtime.provider_table import Placement, Provider

NAME, ORT_NAME = "fake", "FakeExecutionProvider"
OPTIONS = {"device_id": "0", "arena_extend_strategy": "kNextPowerOfTwo", "enable_cuda_graph": "0"}
"""Those that it knows, and what they are unless given."""

Real = ort.InferenceSession


class Assigned:
    """A subgraph of a session, all of it assigned to the fake."""

    def __init__(self, real: Any) -> None:
        self.ep_name, self.get_nodes = ORT_NAME, real.get_nodes


def install(
    monkeypatch: pytest.MonkeyPatch,
    devices: int = 2,
    options: Callable[[Placement], dict[str, str]] | None = None,
    memory: str | None = None,
) -> list[ort.InferenceSession]:
    """Put it first among the providers, with so many devices; return the sessions that will run on it.

    ``memory`` is where I/O binding puts its buffers: "cpu" is the only one that works without a device.
    """
    sessions: list[ort.InferenceSession] = []

    class Fake(Real):
        def __init__(self, model: Any, sess_options: Any = None, **given: Any) -> None:
            named = given["providers"][0]
            self._fake = None if isinstance(named, str) else dict(named[1])
            if self._fake is not None:
                for key in self._fake:
                    if key not in OPTIONS:  # in CUDA's words
                        raise RuntimeError(
                            f'provider_options_utils.h:155 Unknown provider option: "{key}".\n'
                        )
                if int(self._fake.get("device_id", 0)) >= devices:
                    raise RuntimeError("CUDA failure 101: invalid device ordinal")
                sessions.append(self)
            super().__init__(model, sess_options, providers=["CPUExecutionProvider"], enable_fallback=0)

        def get_providers(self) -> list[str]:
            return [ORT_NAME, *super().get_providers()] if self._fake is not None else super().get_providers()

        def get_provider_options(self) -> dict[str, dict[str, str]]:
            said: dict[str, dict[str, str]] = super().get_provider_options()
            return said if self._fake is None else {**said, ORT_NAME: {**OPTIONS, **self._fake}}

        def get_provider_graph_assignment_info(self) -> list[Any]:
            real = super().get_provider_graph_assignment_info()
            return real if self._fake is None else [Assigned(each) for each in real]

    entry = Provider(
        NAME,
        ORT_NAME,
        "nothing to install: it is a fake",
        options or (lambda where: {"device_id": str(where.device)}),
        memory=memory,
        graphs="enable_cuda_graph",
    )
    available = ort.get_available_providers()
    monkeypatch.setitem(provider_table.PROVIDERS, NAME, entry)
    order = (NAME, *provider_table.AUTO_ORDER)
    for module in (provider_table, providers, start):
        monkeypatch.setattr(module, "AUTO_ORDER", order, raising=False)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [ORT_NAME, *available])
    monkeypatch.setattr(ort, "InferenceSession", Fake)
    return sessions
