"""The device that was asked for is the one that is used, or opening fails."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import runtime
from models.bound import BoundRuns
from models.errors import DeviceUnavailableError, InvalidBundleError
from models.registry import Registry
from models.runtime import (
    DEVICES,
    Session,
    SessionOptions,
    check_embedder,
    choose_device,
    installed_runtimes,
)
from service.inference.embedder import Embedder

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
ON_CPU = SessionOptions("cpu")


@pytest.mark.parametrize(
    ("asked", "available", "chosen"),
    [
        ("auto", [CPU], "cpu"),
        ("auto", [CUDA, CPU], "cuda"),
        ("auto", [TENSORRT, CUDA, CPU], "cuda"),
        ("auto", [OPENVINO, CPU], "cpu"),
        ("auto", ["AzureExecutionProvider", CPU], "cpu"),
        ("cpu", [CUDA, CPU], "cpu"),
        ("cuda", [TENSORRT, CUDA, CPU], "cuda"),
        ("tensorrt", [TENSORRT, CUDA, CPU], "tensorrt"),
        ("openvino", [OPENVINO, CPU], "openvino"),
    ],
)
def test_the_device_is_the_one_asked_for_or_the_fastest_that_needs_no_compiling(
    asked: str, available: list[str], chosen: str
) -> None:
    assert choose_device(asked, available, ["onnxruntime"]) == chosen


@pytest.mark.parametrize(("asked", "extra"), [("cuda", "gpu"), ("tensorrt", "gpu"), ("openvino", "openvino")])
def test_a_named_device_that_is_absent_is_refused_with_what_to_install(asked: str, extra: str) -> None:
    with pytest.raises(DeviceUnavailableError, match=rf"facesphere\[{extra}\]") as caught:
        choose_device(asked, [CPU], ["onnxruntime"])
    assert CPU in caught.value.message


@pytest.mark.parametrize("asked", DEVICES)
def test_two_runtimes_that_overwrite_each_other_are_refused_whatever_is_asked(asked: str) -> None:
    with pytest.raises(DeviceUnavailableError, match="onnxruntime and onnxruntime-gpu are installed together"):
        choose_device(asked, [CUDA, CPU], ["onnxruntime", "onnxruntime-gpu"])


@pytest.mark.parametrize("asked", ["", "gpu", "CPU", "cuda:0"])
def test_an_unknown_device_is_refused_and_the_known_ones_are_named(asked: str) -> None:
    with pytest.raises(DeviceUnavailableError, match="auto, cpu, cuda, tensorrt, openvino"):
        choose_device(asked, [CPU], ["onnxruntime"])


@pytest.mark.parametrize("asked", ["auto", "openvino"])
def test_bfloat16_is_computed_by_openvino(asked: str) -> None:
    assert choose_device(asked, [OPENVINO, CPU], ["onnxruntime-openvino"], "bfloat16") == "openvino"
    with pytest.raises(DeviceUnavailableError, match=r"facesphere\[openvino\]"):
        choose_device(asked, [CPU], ["onnxruntime"], "bfloat16")


@pytest.mark.parametrize("asked", ["cpu", "cuda", "tensorrt"])
def test_a_device_that_does_not_compute_in_bfloat16_is_refused_for_it(asked: str) -> None:
    with pytest.raises(DeviceUnavailableError, match=f"device {asked} does not compute in bfloat16"):
        choose_device(asked, [TENSORRT, CUDA, OPENVINO, CPU], ["onnxruntime-gpu"], "bfloat16")


def test_exactly_one_runtime_is_installed_here() -> None:
    assert len(installed_runtimes()) == 1


def _onnx(nodes: list[Any], constants: dict[str, Any], shape: list[Any], outputs: list[str]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return data


def _embedder(
    shape: list[Any] | None = None,
    factor: float = 1.0,
    more: list[Any] | None = None,
    outputs: list[str] | None = None,
) -> bytes:
    """A network that gives the channel means of its crop, times a factor: a vector of three."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"], axis=1),
        helper.make_node("Mul", ["flat", "factor"], ["y"]),
        *(more or []),
    ]
    return _onnx(nodes, {"factor": np.float32(factor)}, shape or ["n", 3, 16, 16], outputs or ["y"])


def _session(folder: Path, model: bytes, options: SessionOptions = ON_CPU) -> Session:
    path = folder / "model.onnx"
    path.write_bytes(model)
    return Session(path, options)


def test_a_session_computes_what_the_graph_says(tmp_path: Path) -> None:
    session = _session(tmp_path, _embedder(factor=2))
    x = np.random.default_rng(1).normal(size=(4, 3, 16, 16)).astype(np.float32)
    (name, values), *rest = session.run(x).items()
    assert (name, rest) == ("y", [])
    np.testing.assert_allclose(values, 2 * x.astype(np.float64).mean(axis=(2, 3)), atol=1e-6)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_number_of_threads_does_not_change_the_device(tmp_path: Path, threads: int) -> None:
    assert _session(tmp_path, _embedder(), SessionOptions("cpu", threads)).device == "cpu"


def test_the_default_embedder_runs_on_the_processor_and_gives_its_dimension(registry: Registry) -> None:
    bundle = registry.resolve("embedder")
    session = Session(bundle.model_path, ON_CPU)
    spec = bundle.manifest.input
    assert session.device == "cpu"
    assert session.fixed_batch is None
    assert check_embedder(session, spec.width, spec.height, bundle.manifest.dimension) == bundle.manifest.dimension


def test_the_same_input_gives_the_same_vector_alone_and_in_a_batch(registry: Registry) -> None:
    session = Session(registry.resolve("embedder").model_path, ON_CPU)
    x = np.random.default_rng(2).uniform(0, 255, (5, 3, 112, 112)).astype(np.float32)
    (together,) = session.run(x).values()
    alone = np.concatenate([next(iter(session.run(x[i : i + 1]).values())) for i in range(5)])
    unit = [v.astype(np.float64) / np.linalg.norm(v, axis=1, keepdims=True) for v in (together, alone)]
    np.testing.assert_allclose((unit[0] * unit[1]).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("device", "provider"), [("cuda", CUDA), ("tensorrt", TENSORRT), ("openvino", OPENVINO)])
def test_a_named_device_that_this_machine_has_not_fails_instead_of_using_another(
    tmp_path: Path, device: str, provider: str
) -> None:
    if provider in onnxruntime.get_available_providers():
        pytest.skip(f"this machine has a runtime for {device}")
    with pytest.raises(DeviceUnavailableError, match=device):
        _session(tmp_path, _embedder(), SessionOptions(device))


@pytest.mark.parametrize("device", ["cpu", "cuda", "tensorrt", "openvino"])
def test_what_a_provider_is_told_is_filled_in_and_of_the_precision_of_the_contract(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    given = runtime._provider_options(device, 3, SessionOptions(device, 3, cache=tmp_path / "engines"))

    assert not [
        value
        for value in given.values()
        for place in ("{all_threads}", "{streams}", "{precision}", "{cache}")
        if place in value
    ]
    if device == "cuda":
        assert given["use_tf32"] == "0"
    if device == "openvino":
        assert json.loads(given["load_config"])["CPU"]["INFERENCE_PRECISION_HINT"] == "f32"
    if device == "tensorrt":
        assert (given["trt_fp16_enable"], os.environ["NVIDIA_TF32_OVERRIDE"]) == ("0", "0")
        assert given["trt_engine_cache_path"] == str(tmp_path / "engines")
        assert (tmp_path / "engines").stat().st_mode & 0o777 == 0o700
        without = runtime._provider_options(device, 3, SessionOptions(device, 3))
        assert not [name for name in without if "cache" in name]
        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")


def test_openvino_has_a_stream_for_each_run_at_once_with_threads_of_its_own() -> None:
    given = runtime._provider_options("openvino", 2, SessionOptions("openvino", 2, streams=4))
    told = json.loads(given["load_config"])["CPU"]
    assert (told["NUM_STREAMS"], told["INFERENCE_NUM_THREADS"]) == ("4", "8")
    assert told["ENABLE_CPU_PINNING"] == "NO"  # else two networks are kept to the same cores


@pytest.mark.parametrize(("device", "loads"), [("cuda", 1), ("tensorrt", 1), ("cpu", 0)])
def test_the_libraries_of_a_gpu_are_loaded_once_and_what_that_prints_is_not_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], device: str, loads: int
) -> None:
    loaded = []

    def preload() -> None:
        loaded.append(1)
        print("Failed to load libcublas.so.13")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    monkeypatch.setitem(runtime._PROVIDERS, device, CPU)  # the session that is then opened
    monkeypatch.setattr(runtime, "_load_libraries", functools.cache(runtime._load_libraries.__wrapped__))
    for _ in range(2):
        runtime._open(tmp_path / "model.onnx", _embedder(), device, SessionOptions(device))
    assert len(loaded) == loads
    assert capfd.readouterr().out == ""


class Opened:
    """CUDA played by the processor: everything is as on a GPU but who computes. Remembers what was opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.devices: list[str] = []
        monkeypatch.setitem(runtime._PROVIDERS, "cuda", CPU)
        monkeypatch.setattr(runtime, "_load_libraries", lambda: "")
        really = runtime._open

        def opens(path: Path, model: bytes, device: str, options: SessionOptions) -> tuple[Any, str]:
            self.devices.append(options.device)
            return really(path, model, device, options)

        monkeypatch.setattr(runtime, "_open", opens)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch)


def test_on_a_gpu_each_shape_has_a_session_and_gives_what_one_for_all_gives(tmp_path: Path, opened: Opened) -> None:
    plain = _session(tmp_path, _embedder())
    session = _session(tmp_path, _embedder(), SessionOptions("cuda"))
    assert (session.device, opened.devices) == ("cuda", ["cpu", "cuda"])
    rng = np.random.default_rng(8)
    for size in (4, 1, 4, 16, 1):
        batch = rng.normal(size=(size, 3, 16, 16)).astype(np.float32)
        np.testing.assert_array_equal(session.run(batch)["y"], plain.run(batch)["y"])
    assert opened.devices == ["cpu", "cuda", "cuda", "cuda"]


def test_where_only_the_height_and_width_are_free_each_has_a_session_too(registry: Registry, opened: Opened) -> None:
    session = Session(registry.resolve("detector").model_path, SessionOptions("cuda"))
    assert session.fixed_batch == 1
    for side in (64, 32, 64, 32):
        session.run(np.zeros((1, 3, side, side), np.float32))
    assert len(opened.devices) == 2


def test_a_graph_of_one_shape_has_one_session(tmp_path: Path, opened: Opened) -> None:
    session = _session(tmp_path, _embedder([1, 3, 16, 16]), SessionOptions("cuda"))
    for _ in range(3):
        session.run(np.zeros((1, 3, 16, 16), np.float32))
    assert len(opened.devices) == 1


def test_a_further_session_is_on_the_device_of_the_first_or_not_at_all(tmp_path: Path, opened: Opened) -> None:
    session = _session(tmp_path, _embedder(), SessionOptions("auto"))
    assert session.device == "cuda"
    for size in (1, 2):
        session.run(np.zeros((size, 3, 16, 16), np.float32))
    assert opened.devices == ["auto", "cuda"]  # by auto the processor could be taken for it in silence


@pytest.mark.parametrize(("most", "sizes"), [(1, 1), (2, 2), (3, 2), (8, 3)])
def test_an_embedder_is_checked_in_a_size_that_it_is_then_given(
    registry: Registry, opened: Opened, most: int, sizes: int
) -> None:
    bundle = registry.resolve("embedder")
    embedder = Embedder(Session(bundle.model_path, SessionOptions("cuda")), bundle.manifest, most)
    for count in range(1, most + 1):
        embedder.embed([np.zeros((112, 112, 3), np.uint8)] * count)
    assert len(opened.devices) == sizes


class Told:
    """A session that remembers how it was run."""

    def __init__(self) -> None:
        self.given_back: list[bool] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x")]

    def run(self, _: object, __: object, options: object) -> list[Any]:
        self.given_back.append(options is not None)
        return []


def test_after_large_inputs_memory_is_given_back_on_a_processor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_LARGE_INPUT", 1000)
    told: dict[str, list[bool]] = {}
    for device in ("cpu", "openvino", "cuda", "tensorrt"):
        session = Told()
        runs = runtime._runs(session, device, graphs=False)
        for count in (100, 1000):
            runs.run(np.zeros(count, np.float32))
        told[device] = session.given_back
    assert told == {"cpu": [False, True], "openvino": [False, True], "cuda": [False, False], "tensorrt": [False, False]}


def test_what_a_gpu_lacks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "_load_libraries", lambda: "Failed to load libcudnn.so.9")
    # A provider that is compiled in and does not start: the runtime goes on without it.
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, sess_options, providers: real(model, sess_options, providers=[CPU]),
    )
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(DeviceUnavailableError, match=r"would use CPUExecutionProvider: Failed to load libcudnn\.so\.9"):
        _session(tmp_path, _embedder(), SessionOptions("cuda"))
    assert _session(tmp_path, _embedder(), SessionOptions("auto")).device == "cpu"
    assert "the processor is taken, since cuda does not work: Failed to load libcudnn.so.9" in caplog.text


def test_cuda_is_told_of_graphs_where_they_are_asked_for() -> None:
    assert "enable_cuda_graph" not in runtime._provider_options("cuda", 1, SessionOptions("cuda"))
    assert runtime._provider_options("cuda", 1, SessionOptions("cuda", graphs=True))["enable_cuda_graph"] == "1"


def test_graphs_are_for_cuda_alone(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailableError, match="CUDA graphs were asked for, and the device is cpu"):
        _session(tmp_path, _embedder(), SessionOptions("cpu", graphs=True))


def test_runs_over_bound_memory_give_what_plain_runs_give_and_keep_nothing_of_each_other(registry: Registry) -> None:
    path = registry.resolve("embedder").model_path
    plain = onnxruntime.InferenceSession(str(path), providers=[CPU])
    bound = BoundRuns(plain, "cpu")
    rng = np.random.default_rng(6)
    batches = [rng.uniform(0, 255, (size, 3, 112, 112)).astype(np.float32) for size in (1, 2, 1, 1, 2, 3, 2)]
    batches.append(batches[0][..., ::-1])  # a view, which lies otherwise in memory
    found = [bound.run(batch)[0] for batch in batches]
    for batch, ours in zip(batches, found, strict=True):
        (theirs,) = plain.run(None, {plain.get_inputs()[0].name: np.ascontiguousarray(batch)})
        np.testing.assert_array_equal(ours, theirs)


def test_auto_always_finds_a_device(tmp_path: Path) -> None:
    assert _session(tmp_path, _embedder(), SessionOptions("auto")).device in DEVICES


@pytest.mark.parametrize("data", [b"", b"no model", bytes(100)])
def test_a_file_that_the_runtime_does_not_load_is_told_in_one_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidBundleError, match=r"model\.onnx cannot be loaded on cpu") as caught:
        _session(tmp_path, data)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(("first", "fixed"), [("n", None), (None, None), (1, 1), (4, 4)])
def test_a_fixed_batch_is_read_off_the_graph(tmp_path: Path, first: int | str | None, fixed: int | None) -> None:
    assert _session(tmp_path, _embedder([first, 3, 16, 16])).fixed_batch == fixed


@pytest.mark.parametrize("first", ["n", 1, 4])
def test_an_embedder_that_keeps_its_word_is_accepted(tmp_path: Path, first: int | str) -> None:
    session = _session(tmp_path, _embedder([first, 3, 16, 16]))
    assert check_embedder(session, 16, 16, 3) == 3
    assert check_embedder(session, 16, 16, None) == 3


def test_a_stated_dimension_that_is_not_the_networks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundleError, match="gives 3 values, its manifest says 128"):
        check_embedder(_session(tmp_path, _embedder()), 16, 16, 128)


@pytest.mark.parametrize(("width", "height"), [(32, 16), (16, 32), (112, 112)])
def test_a_size_that_the_network_does_not_take_is_refused(tmp_path: Path, width: int, height: int) -> None:
    with pytest.raises(InvalidBundleError, match=f"does not run on {width} x {height}"):
        check_embedder(_session(tmp_path, _embedder()), width, height, 3)


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_a_network_that_gives_no_finite_values_is_refused(tmp_path: Path, factor: float) -> None:
    with pytest.raises(InvalidBundleError, match="not finite"):
        check_embedder(_session(tmp_path, _embedder(factor=factor)), 16, 16, 3)


def test_a_network_with_two_outputs_is_refused(tmp_path: Path) -> None:
    second = [helper.make_node("Neg", ["y"], ["z"])]
    with pytest.raises(InvalidBundleError, match="one vector a crop"):
        check_embedder(_session(tmp_path, _embedder(more=second, outputs=["y", "z"])), 16, 16, 3)


def test_a_network_whose_output_is_a_map_and_no_vector_is_refused(tmp_path: Path) -> None:
    model = _onnx([helper.make_node("Relu", ["x"], ["y"])], {}, ["n", 3, 16, 16], ["y"])
    with pytest.raises(InvalidBundleError, match="one vector a crop"):
        check_embedder(_session(tmp_path, model), 16, 16, None)


def test_a_network_that_gives_one_vector_for_a_whole_batch_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("ReduceMean", ["mean"], ["one"], axes=[0, 2, 3], keepdims=1),
        helper.make_node("Flatten", ["one"], ["y"], axis=1),
    ]
    with pytest.raises(InvalidBundleError, match="one vector a crop"):
        check_embedder(_session(tmp_path, _onnx(nodes, {}, ["n", 3, 16, 16], ["y"])), 16, 16, None)


def test_the_runtime_sends_nothing_to_its_maker(registry: Registry, tmp_path: Path) -> None:
    """With telemetry on, ONNX Runtime keeps a device id under the cache folder as soon as a session is opened."""
    model = registry.resolve("detector").model_path
    code = f"from models.runtime import *; Session(Path({str(model)!r}), SessionOptions('cpu'))"
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache"), "PATH": os.environ["PATH"]}

    subprocess.run([sys.executable, "-c", code], env=home, check=True, timeout=60)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(OPENVINO not in onnxruntime.get_available_providers(), reason="this runtime has no OpenVINO")
def test_float32_is_float32_in_openvino_whatever_the_processor_could_do(registry: Registry) -> None:
    path = registry.resolve("embedder").model_path
    x = np.random.default_rng(4).uniform(0, 255, (3, 3, 112, 112)).astype(np.float32)
    (ours,), (theirs,) = (Session(path, SessionOptions(device)).run(x).values() for device in ("cpu", "openvino"))
    unit = [v.astype(np.float64) / np.linalg.norm(v, axis=1, keepdims=True) for v in (ours, theirs)]
    np.testing.assert_allclose((unit[0] * unit[1]).sum(axis=1), 1, atol=1e-6)


def test_memory_of_a_large_input_is_given_back(registry: Registry) -> None:
    code = """if True:
        import os, sys, numpy as np
        from pathlib import Path
        from models.runtime import Session, SessionOptions
        session = Session(Path(sys.argv[1]), SessionOptions("cpu"))
        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        session.run(np.zeros((1, 3, 640, 640), np.float32))
        before = resident()
        large = np.zeros((1, 3, 1920, 1920), np.float32)
        session.run(large)
        del large
        print(resident() - before)
    """
    path = str(registry.resolve("detector").model_path)
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=60)

    assert int(run.stdout) < 50e6  # 130e6 if it is kept
