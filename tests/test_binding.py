"""I/O binding, for real, with its buffers in the host's memory; a provider that claims to need it is a fake.

What only a GPU can show, its speed and its page-locked copies, is not claimed here.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cheap_model import write_cheap_model
from pipeline.app import Pipeline
from pipeline.config import make_config
from pipeline.errors import ProviderError
from pipeline.runtime import pinned
from pipeline.runtime.binding import MOST_SHAPES, Binding, Bound, Memory, batch_sizes
from pipeline.runtime.faults import is_provider_fault
from pipeline.runtime.model import open_model
from pipeline.runtime.session import Session
from tests import fake_provider
from tests.constant_models import constant_model


@pytest.fixture
def bound_sessions(monkeypatch: pytest.MonkeyPatch) -> list[ort.InferenceSession]:
    return fake_provider.install(monkeypatch, memory="cpu")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...], int]]:
    """The runs of bindings as they happen: number of the graph, input's shape, how many at once."""
    seen: list[tuple[str, tuple[int, ...], int]] = []
    inside = 0

    def run(self: Any, binding: Any, options: Any = None) -> None:
        nonlocal inside
        inside += 1
        graph = options.get_run_config_entry("gpu_graph_id") if options is not None else ""
        time.sleep(0.0005)  # time for another thread to come in
        real(self, binding, options)
        seen.append((graph, shapes[id(binding)], inside))
        inside -= 1

    def bind(self: Any, name: str, value: Any) -> None:
        if name == "images":
            shapes[id(self)] = tuple(value.shape())
        real_bind(self, name, value)

    shapes: dict[int, tuple[int, ...]] = {}
    real, real_bind = ort.InferenceSession.run_with_iobinding, ort.IOBinding.bind_ortvalue_input
    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", run)
    monkeypatch.setattr(ort.IOBinding, "bind_ortvalue_input", bind)
    return seen


def pictures(count: int, start: float = 0.0, size: int = 32) -> np.ndarray:
    """Blobs of one colour each, so that each has its own answer."""
    reds = np.linspace(start, start + 0.5, count, dtype=np.float32)
    return np.broadcast_to(reds[:, None, None, None], (count, 3, size, size)).copy()


def write_model(folder: Path, **options: Any) -> str:
    return str(write_cheap_model(folder / "m.onnx", echo=8.0, dynamic_batch=True, **options))


def test_batch_sizes() -> None:
    assert batch_sizes(1) == (1,)
    assert batch_sizes(2) == (1, 2)
    assert batch_sizes(6) == (1, 2, 4, 6)
    assert batch_sizes(8) == (1, 2, 4, 8)
    assert batch_sizes(9) == (1, 2, 4, 8, 9)


@pytest.mark.usefixtures("bound_sessions")
def test_every_batch_is_padded_to_a_fixed_size_and_cut_again(
    tmp_path: Path, runs: list[tuple[str, tuple[int, ...], int]]
) -> None:
    model = open_model(write_model(tmp_path))
    assert model.session.active == "FakeExecutionProvider"
    plain = Session(model.session.path, "cpu")
    binding = model.session.bound(6, model.spec)
    assert [shape[0] for _, shape, _ in runs] == [6, 4, 2, 1]  # made ready before there is a frame
    for count in (1, 2, 3, 4, 5, 6, 3, 1, 7):
        blob = pictures(count, start=count / 20)
        apart = np.split(blob, count)  # as the stage has them
        (answer,) = binding.run(*(apart if count % 2 else [blob]))
        (expected,) = plain.run(*(apart if count % 4 else [blob]))
        np.testing.assert_array_equal(answer, expected)
    assert [shape[0] for _, shape, _ in runs[4:]] == [1, 2, 4, 4, 6, 6, 4, 1, 7]


@pytest.mark.usefixtures("bound_sessions")
def test_an_answer_is_the_receivers_own(tmp_path: Path) -> None:
    """The next run writes into the same buffers: what was handed on must not change."""
    model = open_model(write_model(tmp_path))
    binding = model.session.bound(2, model.spec)
    for count in (1, 2):
        (first,) = binding.run(pictures(count))
        kept = first.copy()
        binding.run(pictures(count, start=0.5))
        np.testing.assert_array_equal(first, kept)


@pytest.mark.usefixtures("bound_sessions")
def test_input_and_outputs_keep_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(write_model(tmp_path))
    places: list[list[int]] = []
    real = ort.InferenceSession.run_with_iobinding

    def run(self: Any, binding: Any, options: Any = None) -> None:
        real(self, binding, options)
        places.append([value.data_ptr() for value in binding.get_outputs()])

    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", run)
    bindings = [model.session.bound(1, model.spec) for _ in range(2)]
    for _ in range(5):
        for binding in bindings:
            binding.run(pictures(1))
    by_worker = [places[0::2][1:], places[1::2][1:]]
    assert all(len({*map(tuple, worker)}) == 1 for worker in by_worker)
    assert by_worker[0][0] != by_worker[1][0]  # no two workers share a buffer


def test_outputs_whose_size_depends_on_the_picture(
    tmp_path: Path, bound_sessions: list[ort.InferenceSession]
) -> None:
    """A model with its own NMS: as many rows as objects. Nothing is bound for good to the first's size."""
    nodes = [
        helper.make_node("ReduceMax", ["images", "axes"], ["red"], keepdims=0),
        helper.make_node("Cast", ["red"], ["count"], to=TensorProto.INT64),
        helper.make_node("ConstantOfShape", ["count"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "first"], ["wide"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("wide", TensorProto.FLOAT, [1, "n"]),
        ],
        [
            numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
            numpy_helper.from_array(np.array([0], np.int64), "first"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(made, tmp_path / "rows.onnx")
    session = Session(tmp_path / "rows.onnx", "fake")
    spec = open_model(write_model(tmp_path), "cpu").spec
    binding = session.bound(1, spec)
    assert len(bound_sessions) == 1
    for count in (3, 0, 7, 2):
        rows, wide = binding.run(np.full((1, 3, 32, 32), count, np.float32))
        assert (rows.shape, wide.shape) == ((count,), (1, count))
    # With a graph an output has one place: another size is an error, never an old answer.
    graphs = Session(tmp_path / "rows.onnx", "fake", options=GRAPHS).bound(1, spec)
    with pytest.raises(RuntimeError, match="shape"):
        graphs.run(np.full((1, 3, 32, 32), 3, np.float32))


@pytest.mark.usefixtures("bound_sessions")
@pytest.mark.parametrize(
    ("shape", "beside"),
    [
        ((2, 3, 32, 32), {}),
        ((3, 32, 32), {}),
        ((1, 3, 32, 32), {"scale_factor": (1, 2)}),
        ((2, 3, 32, 32), {"scale_factor": (2, 2)}),
    ],
)
def test_fixed_batches_inputs_without_batch_and_inputs_beside(
    tmp_path: Path, shape: tuple[int, ...], beside: dict[str, tuple[int, ...]]
) -> None:
    rows = shape[0] if len(shape) == 4 else 1
    answer = np.arange(rows * 5, dtype=np.float32).reshape(rows, 5)
    path = constant_model(tmp_path / "m.onnx", {"out": answer}, shape=shape, beside=beside)
    session, plain = Session(path, "fake"), Session(path, "cpu")
    spec = open_model(write_model(tmp_path), "cpu").spec
    for each in (session, plain):
        each.feed_size((32, 32))
    for blob in (pictures(1), pictures(rows)):
        np.testing.assert_array_equal(*(each.run(blob)[0] for each in (session.bound(4, spec), plain)))


@pytest.mark.usefixtures("bound_sessions")
def test_buffers_and_outputs_lie_on_the_device_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said to ONNX Runtime, that is: what lies where, only a second GPU can show."""
    said: list[tuple[str, int]] = []
    make, bind = ort.OrtValue.ortvalue_from_shape_and_type, ort.IOBinding.bind_output

    def made(shape: Any, dtype: Any, kind: str, device: int) -> Any:
        said.append(("buffer", device))
        return make(shape, dtype, "cpu", 0)

    def bound(self: Any, name: str, kind: str, device: int) -> None:
        said.append(("output", device))
        bind(self, name, "cpu", 0)

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", staticmethod(made))
    monkeypatch.setattr(ort.IOBinding, "bind_output", bound)
    path = Path(write_model(tmp_path))
    spec = open_model(str(path), "cpu").spec
    for device in (1, 0):
        said.clear()
        Session(path, "fake", device=device).bound(2, spec)
        assert set(said) == {("buffer", device), ("output", device)}


@pytest.mark.usefixtures("bound_sessions")
def test_only_so_many_shapes_are_kept(tmp_path: Path) -> None:
    model = open_model(write_model(tmp_path))
    binding = model.session.bound(1, model.spec)
    assert isinstance(binding, Binding)
    kept = binding._slots[(1, 3, 32, 32, "<f4")]
    shapes = [(1, 3, 32, 32 + side) for side in range(1, MOST_SHAPES)]

    def slot(shape: Sequence[int]) -> None:
        with pytest.raises(Exception, match=r"Got|INVALID_ARGUMENT"):  # the model takes 32x32 only
            binding.run(np.zeros(shape, np.float32))

    for shape in shapes:
        slot(shape)
    assert len(binding._slots) == MOST_SHAPES
    slot((1, 3, 32, 99))
    assert len(binding._slots) == MOST_SHAPES
    assert kept not in binding._slots.values()


@pytest.mark.usefixtures("bound_sessions")
@pytest.mark.parametrize(
    ("of", "call"),
    [
        (ort.InferenceSession, "run_with_iobinding"),
        (ort.OrtValue, "update_inplace"),
        (ort.OrtValue, "numpy"),
        (ort.OrtValue, "ortvalue_from_shape_and_type"),
        (ort.InferenceSession, "io_binding"),
        (ort.IOBinding, "bind_ortvalue_input"),
        (ort.IOBinding, "bind_output"),
    ],
)
def test_whatever_of_a_bound_run_fails_is_a_fault_of_the_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: type, call: str
) -> None:
    """ONNX Runtime's bindings raise a plain RuntimeError, which says nothing of whose it is."""
    model = open_model(write_model(tmp_path))
    binding = model.session.bound(2, model.spec)

    def lost(*_: object) -> None:
        raise RuntimeError("Error in execution: CUDA failure 700")

    monkeypatch.setattr(of, call, lost)
    with pytest.raises(RuntimeError, match=r"^Error in execution: CUDA failure 700$") as raised:
        binding.run(*[pictures(1)] * 3)  # a size that has no buffers yet
    assert is_provider_fault(raised.value)
    assert type(raised.value.__cause__) is RuntimeError


@pytest.mark.usefixtures("bound_sessions")
def test_an_error_of_ours_in_a_bound_run_is_no_fault_of_the_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(write_model(tmp_path))
    binding = model.session.bound(1, model.spec)

    def wrong(*_: object) -> None:
        raise NotImplementedError("ours")

    monkeypatch.setattr(ort.OrtValue, "numpy", wrong)
    with pytest.raises(NotImplementedError) as raised:
        binding.run(pictures(1))
    assert not is_provider_fault(raised.value)


GRAPHS = {"fake": {"enable_cuda_graph": "1"}}


@pytest.mark.usefixtures("bound_sessions")
def test_each_worker_and_batch_size_has_a_graph_of_its_own(
    tmp_path: Path, runs: list[tuple[str, tuple[int, ...], int]]
) -> None:
    model = open_model(write_model(tmp_path), options=GRAPHS)
    first, second = (model.session.bound(2, model.spec) for _ in range(2))
    assert {graph for graph, _, _ in runs} == {"-1"}  # not yet recorded: not the thread that replays
    del runs[:]
    for binding in (first, second):
        for count in (1, 2, 1, 2):
            binding.run(pictures(count))
    numbers = [(graph, shape[0]) for graph, shape, _ in runs]
    assert numbers[:2] == numbers[2:4]
    assert numbers[4:6] == numbers[6:8]
    assert len({graph for graph, _ in numbers}) == 4
    assert "-1" not in {graph for graph, _ in numbers}


@pytest.mark.usefixtures("bound_sessions")
def test_runs_on_a_session_with_graphs_are_never_two_at_once(
    tmp_path: Path, runs: list[tuple[str, tuple[int, ...], int]]
) -> None:
    model = open_model(write_model(tmp_path), options=GRAPHS)
    bindings = [model.session.bound(1, model.spec) for _ in range(4)]

    def work(binding: Any) -> None:
        for _ in range(25):
            binding.run(pictures(1))

    threads = [threading.Thread(target=work, args=[binding]) for binding in bindings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 4 + 100
    assert max(at_once for _, _, at_once in runs) == 1


def test_plain_runs_neither_record_nor_replay_a_graph(
    cheap_model: str, bound_sessions: list[ort.InferenceSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay reads the addresses of the recording: of an array that is long gone."""
    seen = []
    real = ort.InferenceSession.run

    def run(self: Any, names: Any, feeds: Any, options: Any = None) -> Any:
        seen.append(options.get_run_config_entry("gpu_graph_id") if options is not None else None)
        return real(self, names, feeds, options)

    monkeypatch.setattr(ort.InferenceSession, "run", run)
    Session(Path(cheap_model), "fake", options=GRAPHS).run(pictures(1))
    Session(Path(cheap_model), "fake").run(pictures(1))
    Session(Path(cheap_model), "cpu").run(pictures(1))
    assert seen == ["-1", None, None]
    assert len(bound_sessions) == 2


@pytest.mark.usefixtures("bound_sessions")
def test_a_graph_needs_the_whole_model_on_the_provider(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = ort.InferenceSession.get_provider_graph_assignment_info
    monkeypatch.setattr(
        ort.InferenceSession,
        "get_provider_graph_assignment_info",
        lambda self: [*fake(self), *fake_provider.Real.get_provider_graph_assignment_info(self)],
    )
    assert Session(Path(cheap_model), "fake").nodes["CPUExecutionProvider"] == 4
    with pytest.raises(
        ProviderError, match=r"enable_cuda_graph: .* 4 nodes are on CPUExecutionProvider; remove"
    ):
        Session(Path(cheap_model), "fake", options=GRAPHS)


def test_the_cpu_runs_as_ever(cheap_model: str) -> None:
    model = open_model(cheap_model, "cpu")
    assert model.session.bound(4, model.spec) is model.session


def test_the_line_runs_on_bindings(
    tmp_path: Path, bound_sessions: list[ort.InferenceSession], runs: list[tuple[str, tuple[int, ...], int]]
) -> None:
    """Several streams, batches, two workers on two devices: each frame gets its own answer."""
    model = str(
        write_cheap_model(tmp_path / "m.onnx", dynamic_batch=True, boxes_cxcywh=((12.0, 16.0, 8.0, 8.0),))
    )
    streams = [{"source": "synthetic:32x32@25?frames=30", "name": name} for name in "ab"]
    config = make_config({"streams": streams, "model": model, "batch": 3, "device": "0,1", "linger_ms": 5})
    with Pipeline(config) as line:
        seen = [(result.stream, result.frame.seq, len(result.detections)) for result in line]
    assert sorted(seen) == [(name, seq, 1) for name in "ab" for seq in range(30)]
    assert len(bound_sessions) == 2
    assert {shape[0] for _, shape, _ in runs} == {1, 2, 3}
    assert sum(1 for _ in runs) > 12


def test_bindings_hold_no_memory_of_the_host_in_the_way(tmp_path: Path) -> None:
    """A blob that is no contiguous array is copied, not read across its gaps."""
    path = write_model(tmp_path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    binding = Binding(Bound(session, Memory("cpu"), "images", {"output0": True}, {}), (2,))
    wide = pictures(4)
    (answer,) = binding.run(wide[::2])
    (expected,) = session.run(None, {"images": wide[::2].copy()})
    np.testing.assert_array_equal(answer, expected)


# Page-locked memory: CUDA's runtime library is a fake -----------------------------------------------


class Runtime:
    """Stands for libcudart: remembers what it was told to lock."""

    def __init__(self, error: int = 0) -> None:
        self.error, self.locked = error, {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        if not self.error:
            self.locked[address] = (size, flags)
        return self.error

    def cudaHostUnregister(self, address: int) -> int:
        del self.locked[address]
        return 0


def test_pages_are_locked_for_as_long_as_the_array_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    monkeypatch.setattr(pinned, "cuda_runtime", lambda: runtime)
    array, locked = pinned.pinned_zeros((2, 3), np.dtype(np.float32))
    assert locked
    assert runtime.locked == {array.ctypes.data: (24, 1)}
    view = array[1:]
    del array
    gc.collect()
    assert runtime.locked  # a view still reads it
    assert view.sum() == 0
    del view
    gc.collect()
    assert not runtime.locked


def test_memory_that_cannot_be_locked_is_ordinary_and_said_to_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    runtime = Runtime(error=2)
    monkeypatch.setattr(pinned, "cuda_runtime", lambda: runtime)
    array, locked = pinned.pinned_zeros((2, 3), np.dtype(np.float16))
    assert (array.shape, array.dtype, locked) == ((2, 3), np.float16, False)
    assert "a host buffer of 12 bytes is not page-locked: CUDA error 2" in caplog.text
    monkeypatch.undo()
    caplog.set_level("INFO")
    monkeypatch.setattr(pinned, "_LIBRARIES", ("libnone.so.0",))
    pinned.cuda_runtime.cache_clear()
    assert pinned.pinned_zeros((1,), np.dtype(np.float32))[1] is False
    assert "not page-locked: found none of libnone.so.0" in caplog.text
    pinned.cuda_runtime.cache_clear()


def test_a_device_reads_from_page_locked_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's memory is a fake, in the host's: what is shown is which array is copied there."""
    runtime = Runtime()
    monkeypatch.setattr(pinned, "cuda_runtime", lambda: runtime)
    read: list[int] = []

    class Value:
        def __init__(self, real: Any) -> None:
            self._ortvalue, self.real = real._ortvalue, real

        def update_inplace(self, array: np.ndarray) -> None:
            read.append(array.ctypes.data)
            self.real.update_inplace(array)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    class Device(Memory):
        def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
            return Value(Memory("cpu").empty(shape, dtype))

    real = ort.IOBinding.bind_output
    monkeypatch.setattr(ort.IOBinding, "bind_output", lambda self, name, *_: real(self, name, "cpu"))
    session = ort.InferenceSession(write_model(tmp_path), providers=["CPUExecutionProvider"])
    binding = Binding(Bound(session, Device("fake"), "images", {"output0": False}, {}), (1, 2))
    for count in (2, 1, 2):
        blob = pictures(count, start=0.2)
        (answer,) = binding.run(blob)
        np.testing.assert_array_equal(answer, session.run(None, {"images": blob})[0])
    assert set(read) == set(runtime.locked)
    assert len(read) == 3
