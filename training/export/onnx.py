"""A torch network to an ONNX file in which weights keep their names and batch normalisation is still to be seen.

A file in which normalisation is folded into the convolutions runs no faster, since ONNX Runtime folds it on loading
(docs/export.md has the measurement), but could never be trained on: weights are read back out of a bundle by name.
"""

import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from training.export.errors import ExportError

OPSET = 17
INPUT = "input"
OUTPUT = "embedding"


def export_onnx(module: nn.Module, size: tuple[int, int], channels: int = 3) -> bytes:
    """Export a network with a free batch axis, as it computes in evaluation.

    Args:
        module: maps float32 (N, channels, height, width), normalised already, to (N, D); it is not changed.
        size: (height, width) of its input.
        channels: of its input.

    Returns:
        An ONNX file: input "input", output "embedding", initialisers named as in `state_dict`; the very same bytes for
        the same network.

    Raises:
        ExportError: torch cannot express the network in ONNX.
    """
    network = copy.deepcopy(module).cpu().float().eval()
    # Of two crops: a batch of one invites shapes that are constants by chance.
    example = torch.zeros(2, channels, *size)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
            # torch asks for its newer exporter, which needs one package more and renames weights. What tracing may
            # have taken for constant is looked for by comparing vectors in batches of several sizes (parity.py).
            warnings.simplefilter("ignore")
            file = Path(folder) / "model.onnx"
            _export(network, example, file)
            model = file.read_bytes()
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"the network cannot be exported for {size[1]} x {size[0]} input: {reason}") from error
    return _with_own_weights(model)


def _export(network: nn.Module, example: torch.Tensor, file: Path) -> None:
    torch.onnx.export(
        network,
        (example,),
        file,
        dynamo=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        training=torch.onnx.TrainingMode.PRESERVE,  # of a network in evaluation: nothing is fused, nothing is random
        do_constant_folding=False,
    )


def _with_own_weights(model: bytes) -> bytes:
    """Weights of equal values are exported once and shared through Identity nodes; give each name its own again."""
    proto: Any = onnx.load_model_from_string(model)
    graph = proto.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Identity" and node.input[0] in values and node.output[0] != OUTPUT:
            tensor = graph.initializer.add()
            tensor.CopyFrom(values[node.input[0]])
            tensor.name = node.output[0]
            graph.node.remove(node)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data
