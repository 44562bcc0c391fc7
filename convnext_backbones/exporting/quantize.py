"""Smaller ONNX models: values in fp16, or pointwise layers in int8, by ONNX Runtime's own tools."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..inference.exported import INPUT
from ..io.silence import silenced

PRECISIONS = ('fp32', 'fp16', 'int8')
MOST_IMAGES = 32  # for calibration


def convert_to_fp16(path: Path) -> None:
    """Convert a model in place; inputs and outputs stay in fp32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    # Its casts of the inputs come last, and its notes on types are those of before.
    del model.graph.value_info[:]
    with silenced(logging.WARNING):
        OnnxModel(model).topological_sort()
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)


def quantize(path: Path, images: Sequence[np.ndarray]) -> int:
    """Quantize the pointwise layers of a model in place; the rest stays in fp32.

    Weights get a scale for each output channel, activations one for each layer, from the range
    that they take for the given images.

    Args:
        path: An ONNX model.
        images: Each of shape (N, C, H, W), as they were read.

    Returns:
        The number of quantized layers.

    Raises:
        ValueError: There are no images, or no such layers.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not images:
        raise ValueError('expected images for the calibration of int8, got none')

    class Reader(CalibrationDataReader):
        """Hands the images on one by one."""

        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(images[:MOST_IMAGES])

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the next input; None at the end."""
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: np.asarray(batch, np.float32)}

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder, 'model.onnx')
        with silenced(logging.WARNING):  # advice that is given for every model
            quant_pre_process(path, draft, skip_symbolic_shape=True)
        graph = onnx.load(draft).graph
        weights = {tensor.name for tensor in graph.initializer}
        layers = [node.name for node in graph.node if _is_pointwise(node, weights)]
        if not layers:
            raise ValueError('expected pointwise convolutions to quantize, found none')
        with silenced(logging.WARNING):
            quantize_static(
                draft,
                path,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=['Conv', 'MatMul', 'Gemm'],
                nodes_to_quantize=layers,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
    return len(layers)


def _is_pointwise(node: Any, weights: set[str]) -> bool:
    """Whether a node multiplies a map with a weight, position by position."""
    if node.op_type in ('MatMul', 'Gemm'):
        return not weights.isdisjoint(node.input)
    kernel = next((list(a.ints) for a in node.attribute if a.name == 'kernel_shape'), None)
    return node.op_type == 'Conv' and kernel == [1, 1]
