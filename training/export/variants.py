"""Smaller files of the same network: weights of 16 bits, or arithmetic of 8.

Both start from the graph with batch normalisation folded: a running variance rounds badly, and 8 bits are chosen for
what a convolution really gives.
"""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from models.bundle import InputSpec
from models.preprocess import Vectors, to_input
from training.data.aligned import Crops
from training.export.errors import ExportError
from training.export.onnx import INPUT

Kind = Literal["fp16", "int8"]
KINDS: tuple[Kind, ...] = ("fp16", "int8")
HOW = {
    "fp16": "float16 weights and arithmetic, float32 input and output, batch normalisation folded",
    "int8": "static quantisation, uint8 activations, 7-bit weights per channel, batch normalisation folded",
}
_AT_ONCE = 16
_PRODUCTS = ["Gemm", "MatMul"]


def to_fp16(model: bytes) -> bytes:
    """A file of half the size: float16 inside, float32 at both ends.

    Args:
        model: what `export_onnx` gave.

    Raises:
        ExportError: ONNX Runtime's tools cannot convert it.
    """
    # Imported here: the tools take a second to load, and models.runtime must have told the runtime not to send usage
    # data before it is loaded.
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values out of range: the gate sees what they do to the vectors
        try:
            converted: Any = convert_float_to_float16(_folded(model), keep_io_types=True)
        except Exception as error:  # the tools raise a family of their own
            raise _failed("fp16", error) from error
    data: bytes = converted.SerializeToString(deterministic=True)
    return data


def to_int8(model: bytes, crops: Crops, spec: InputSpec) -> bytes:
    """A file of a quarter of the size: static quantisation of weights and activations, QDQ form.

    Activations are uint8, weights int8 per output channel and of 7 bits: with 8, processors without VNNI saturate in
    16 bits, and the same photo would have other vectors there. Only convolutions and matrix products are quantised, and
    what a matrix product gives stays float: the last one is the embedding.

    Args:
        model: what `export_onnx` gave.
        crops: uint8 (N, height, width, 3), real ones: the ranges of activations are taken from them.
        spec: how they become input.

    Raises:
        ExportError: ONNX Runtime's tools cannot convert it.
    """
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        try:
            quantization.quantize_static(
                _folded(model),
                out,
                _reader(crops, spec),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=["Conv", *_PRODUCTS],
                per_channel=True,
                reduce_range=True,
                extra_options={"OpTypesToExcludeOutputQuantization": _PRODUCTS},
            )
            return out.read_bytes()
        except Exception as error:  # the tools raise a family of their own
            raise _failed("int8", error) from error


def _reader(crops: Crops, spec: InputSpec) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the crops out in batches; None after the last."""

        def __init__(self) -> None:
            self._batches = _batches(crops, spec)

        def get_next(self) -> dict[str, Vectors] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    return Reader()


def _batches(crops: Crops, spec: InputSpec) -> Iterator[Vectors]:
    for start in range(0, len(crops), _AT_ONCE):
        yield to_input(list(np.asarray(crops[start : start + _AT_ONCE])), spec)


def _folded(model: bytes) -> Any:
    """The graph after ONNX Runtime's basic optimisations, which fold batch normalisation and constants."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "folded.onnx"
        quant_pre_process(onnx.load_model_from_string(model), out, skip_symbolic_shape=True)
        return onnx.load(out)


def _failed(kind: Kind, error: Exception) -> ExportError:
    return ExportError(f"the network cannot be converted to {kind}: {' '.join(str(error).split())[:300]}")
