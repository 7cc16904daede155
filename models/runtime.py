"""ONNX Runtime session: the device that was asked for is the device that is used, or opening fails."""

import contextlib
import functools
import io
import logging
import math
import os
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

# Before the import, which is when it is read: the runtime would keep a device id in the user's cache folder and send
# usage data to its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

from models.bound import BoundRuns
from models.buckets import MOST_ON_A_PROCESSOR, bucket
from models.bundle import Precision
from models.errors import DeviceUnavailableError, InvalidBundleError
from models.onnx_graph import check_whole, with_free_batch, without_prelu
from models.preprocess import Vectors
from models.shapes import Runs, RunsByShape

Device = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]
DEVICES: tuple[str, ...] = get_args(Device)

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
# Chosen by itself only where a graph is not compiled for minutes first.
_AUTO = ("cuda", "cpu")
_ON_A_GPU = frozenset(("cuda", "tensorrt"))
_EXTRAS = {"cuda": "gpu", "tensorrt": "gpu", "openvino": "openvino", "cpu": "cpu"}
# Only this one computes in bfloat16 on a processor. Left alone it would do so wherever the processor can, and the same
# photo would give other vectors elsewhere: the precision is always the manifest's.
_BFLOAT16_DEVICE = "openvino"
_BFLOAT16_FLAGS = frozenset(("avx512_bf16", "amx_bf16"))
log = logging.getLogger("facesphere.models")
_CUDA = {
    # TF32 keeps 10 bits of a factor where float32 has 23, and is on by itself: float32 in a contract is float32.
    "use_tf32": "0",
    # A run of the default model took 0.8 ms by this on an H200, after half a second of planning, and 213 ms by
    # "DEFAULT" (benchmarks/shapes.py).
    "cudnn_conv_algo_search": "HEURISTIC",
    # What is taken from the GPU is what is needed, and not twice of it at each step.
    "arena_extend_strategy": "kSameAsRequested",
}
_OPTIONS: dict[str, dict[str, str]] = {
    "openvino": {
        "device_type": "CPU",
        # Without streams one run waits for the other, and pinned threads of two networks share the first core.
        "load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "{precision}", "INFERENCE_NUM_THREADS": "{all_threads}", '
        '"NUM_STREAMS": "{streams}", "ENABLE_CPU_PINNING": "NO"}}',
    },
    "cuda": _CUDA,
    "tensorrt": {"trt_fp16_enable": "0"},
}
# Engines take minutes to build, once for a model, a GPU and a version of TensorRT, which are in the names of the files.
_ENGINES = {
    "trt_engine_cache_enable": "1",
    "trt_engine_cache_path": "{cache}",
    "trt_timing_cache_enable": "1",
    "trt_timing_cache_path": "{cache}",
}


# A runtime keeps the memory of its largest input for ever, 130 MB a thread for a detector that once saw 1920 x 1920
# pixels. After inputs over so many bytes it gives that back, which costs a quarter of the run: not after ordinary ones.
_LARGE_INPUT = 24 * 2**20


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Where, with how many threads and in which precision a session runs.

    0 threads: all cores. `streams` is how many runs there are at once, each with so many threads. `cache` is a folder
    for what TensorRT builds, which is built at each start without one. With `free_batch` a graph that takes one input
    at a time is made to take several. With `graphs` what is launched on a GPU is recorded, and launched as a whole.
    """

    device: str = "auto"
    threads: int = 1
    precision: Precision = "float32"
    cache: Path | None = None
    streams: int = 1
    free_batch: bool = False
    graphs: bool = False


def installed_runtimes() -> list[str]:
    """Names of the ONNX Runtime distributions that are installed; they all write the same folder."""
    names = {str(dist.metadata["Name"]).lower().replace("_", "-") for dist in metadata.distributions()}
    return sorted(name for name in names if name == "onnxruntime" or name.startswith("onnxruntime-"))


def choose_device(asked: str, available: list[str], runtimes: list[str], precision: Precision = "float32") -> str:
    """The one device to try.

    Args:
        asked: a member of `DEVICES`.
        available: execution providers compiled into the runtime.
        runtimes: what `installed_runtimes` found.
        precision: what the network is to compute in; not every device can.

    Raises:
        DeviceUnavailableError: unknown, not compiled in, not of that precision, or runtimes overwrote each other.
    """
    if asked not in DEVICES:
        raise DeviceUnavailableError(f"unknown device {asked!r}; known: {', '.join(DEVICES)}")
    if len(runtimes) > 1:
        raise DeviceUnavailableError(
            f"{' and '.join(runtimes)} are installed together and overwrite each other; "
            f"uninstall all of them, then install one"
        )
    if precision == "bfloat16":
        if asked not in ("auto", _BFLOAT16_DEVICE):
            raise DeviceUnavailableError(f"device {asked} does not compute in bfloat16; device openvino does")
        asked = _BFLOAT16_DEVICE
    if asked == "auto":
        return next(device for device in _AUTO if _PROVIDERS[device] in available)
    if _PROVIDERS[asked] not in available:
        raise DeviceUnavailableError(
            f"device {asked} was asked for, but the installed {' '.join(runtimes) or 'onnxruntime'} offers only "
            f"{', '.join(available)}; install facesphere[{_EXTRAS[asked]}]"
        )
    return asked


class Session:
    """One loaded network. `run` may be called from several threads."""

    def __init__(self, path: Path, options: SessionOptions) -> None:
        runtimes = installed_runtimes()
        asked = choose_device(options.device, ort.get_available_providers(), runtimes, options.precision)
        _check_precision(options.precision)
        model = _read(path, asked, options.free_batch)
        self.precision = options.precision
        session, self.device = _open(path, model, asked, options)
        if options.graphs and self.device != "cuda":
            raise DeviceUnavailableError(f"CUDA graphs were asked for, and the device is {self.device}")
        node = session.get_inputs()[0]
        self.input_shape: tuple[int | str | None, ...] = tuple(node.shape)
        self.output_names: list[str] = [output.name for output in session.get_outputs()]
        self._runs = _runs(session, self.device, options.graphs)
        if self.device == "cuda" and not all(isinstance(size, int) for size in self.input_shape):
            self._runs = RunsByShape(self._runs, functools.partial(_another, path, replace(options, device="cuda")))

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the graph takes, or None if it takes any."""
        size = self.input_shape[0]
        return size if isinstance(size, int) and size > 0 else None

    def run(self, batch: Vectors) -> dict[str, Vectors]:
        """Run the network on float32 (N, 3, H, W); every output by its name."""
        return dict(zip(self.output_names, self._runs.run(batch), strict=True))


def _runs(session: Any, device: str, graphs: bool) -> Runs:
    return BoundRuns(session, device) if graphs else _PlainRuns(session, device)


def _another(path: Path, options: SessionOptions) -> Runs:
    """A further session of the same file on the device that the first one got: that one or none."""
    device = options.device
    return _runs(_open(path, _read(path, device, options.free_batch), device, options)[0], device, options.graphs)


class _PlainRuns:
    def __init__(self, session: Any, device: str) -> None:
        self._session = session
        self._input: str = session.get_inputs()[0].name
        self._most = math.inf if device in _ON_A_GPU else _LARGE_INPUT

    def run(self, batch: Vectors) -> list[Vectors]:
        giving_back = _giving_back() if batch.nbytes > self._most else None
        outputs: list[Vectors] = self._session.run(None, {self._input: batch}, giving_back)
        return outputs


def route(embedder: Session, detector: Session) -> str:
    """What computes, in words for the log: `openvino in bfloat16 (onnxruntime-openvino 1.24.1), detector on cpu`."""
    runtimes = " ".join(f"{name} {metadata.version(name)}" for name in installed_runtimes())
    words = f"{embedder.device} in {embedder.precision} ({runtimes})"
    return words if detector.device == embedder.device else f"{words}, detector on {detector.device}"


def _check_precision(precision: Precision) -> None:
    """That the processor has the arithmetic: OpenVINO would use float32 in silence where it has not."""
    if precision == "bfloat16" and not _BFLOAT16_FLAGS & _processor_flags():
        raise DeviceUnavailableError(
            f"the model computes in bfloat16, for which this processor has no arithmetic ({', '.join(_BFLOAT16_FLAGS)})"
        )


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


def _read(path: Path, device: str, free_batch: bool) -> bytes:
    """The file, checked before the runtime parses it, which would follow references to other files."""
    try:
        model = path.read_bytes()
    except OSError as error:
        raise InvalidBundleError(f"cannot read {path}: {error.strerror}") from error
    try:
        check_whole(model)
        # Nobody's vectors change by either, so files stay as they are, and with them the contracts.
        model = with_free_batch(model) if free_batch else model
        return without_prelu(model) if device == "cpu" else model
    except InvalidBundleError as error:
        raise InvalidBundleError(f"{path.name} cannot be loaded on {device}: {error.message}") from error


def _open(path: Path, model: bytes, device: str, options: SessionOptions) -> tuple[Any, str]:
    threads = options.threads or os.cpu_count() or 1
    missing = _load_libraries() if device in _ON_A_GPU else ""
    try:
        session = ort.InferenceSession(
            model,
            sess_options=_ort_options(threads),
            providers=[(_PROVIDERS[device], _provider_options(device, threads, options))],
        )
    except Exception as error:  # the runtime raises a family of its own
        raise InvalidBundleError(f"{path.name} cannot be loaded on {device}: {_one_line(error)}") from error
    # The runtime drops a provider that fails to start and carries on with the CPU without an error.
    used = session.get_providers()[0]
    if used == _PROVIDERS[device]:
        session.disable_fallback()
        return session, device
    if options.device == "auto":
        if missing:
            log.warning("the processor is taken, since %s does not work: %s", device, missing)
        return session, "cpu"
    why = f": {missing}" if missing else ""
    raise DeviceUnavailableError(f"device {device} was asked for, but ONNX Runtime would use {used}{why}")


@functools.cache
def _load_libraries() -> str:
    """CUDA and cuDNN as pip installs them, in folders where no loader looks; where they are missing, the system's.

    Returns:
        What it says was not found, in a line.
    """
    # It says so in print, and the server's output has one line, for programs.
    with contextlib.redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()
    return " ".join(said.getvalue().split())[:300]


def _giving_back() -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _ort_options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Idle threads that spin take the cores from decoding and alignment.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _provider_options(device: str, threads: int, options: SessionOptions) -> dict[str, str]:
    given = dict(_OPTIONS.get(device, {}))
    if options.graphs and device == "cuda":
        given["enable_cuda_graph"] = "1"
    if device == "tensorrt":
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # TensorRT has no option for it
        if options.cache is not None:
            options.cache.mkdir(mode=0o700, parents=True, exist_ok=True)  # whoever writes there has code run here
            given |= _ENGINES
    filled = {
        "{all_threads}": str(threads * options.streams),
        "{streams}": str(options.streams),
        "{precision}": {"float32": "f32", "bfloat16": "bf16"}[options.precision],
        "{cache}": str(options.cache),
    }
    for name, value in filled.items():
        given = {key: text.replace(name, value) for key, text in given.items()}
    return given


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def check_embedder(
    session: Session, width: int, height: int, dimension: int | None, most: int = MOST_ON_A_PROCESSOR
) -> int:
    """Run an embedder once, in a size that a batch of up to `most` may have, and return its dimension.

    Raises:
        InvalidBundleError: it does not run on that size, gives no single vector a crop, not the dimension that was
            stated, or vectors that are not finite.
    """
    count = session.fixed_batch or bucket(session.device, min(2, most), most)
    noise = np.random.default_rng(0).normal(size=(count, 3, height, width)).astype(np.float32)
    try:
        outputs = list(session.run(noise).values())
    except Exception as error:  # the runtime raises a family of its own
        raise InvalidBundleError(f"the model does not run on {width} x {height}: {_one_line(error)}") from error
    first = outputs[0]
    if len(outputs) != 1 or first.ndim != 2 or first.shape[0] != count:
        raise InvalidBundleError(f"an embedder gives one vector a crop, this gives {[o.shape for o in outputs]}")
    if not np.isfinite(first).all():
        raise InvalidBundleError("the model gives values that are not finite")
    if dimension is not None and first.shape[1] != dimension:
        raise InvalidBundleError(f"the model gives {first.shape[1]} values, its manifest says {dimension}")
    return int(first.shape[1])
