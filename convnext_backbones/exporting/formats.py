"""Write a graph as ONNX, for OpenVINO, or as a program of torch.export."""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..inference.exported import FILES, INPUT
from ..io.silence import silenced
from .graph import Graph
from .onnx_operators import translations

# Of the example from which the graph is traced: no number is special, such as a multiple of a
# stride, or the 2 or 3 of queries, keys and values that attention computes together; and the
# coarsest maps of detectors have several rows and columns.
TRACED = (5, 339, 403)  # images, height, width
OPSET = 20  # the first with GELU
# The packages that write a format; torch writes its own.
PACKAGES = dict(onnx=('onnx', 'onnxscript', 'onnxruntime'), openvino=('openvino',), torch=())


def check_packages(format_: str) -> None:
    """Refuse a format whose packages are missing.

    Raises:
        ValueError: There is no such format, or a package for it is not installed.
    """
    if format_ not in FILES:
        raise ValueError(f'expected one of the formats {", ".join(FILES)}, got {format_!r}')
    for package in PACKAGES[format_]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f'expected {package} for the format {format_!r}, and it cannot be imported '
                f"({error}); pip install 'convnext_backbones[export]'"
            ) from error


def trace(graph: Graph, channels: int) -> torch.export.ExportedProgram:
    """Return the program of a graph, for any number of images of any size.

    Raises:
        ValueError: A layer of the model cannot be traced.
    """
    images = torch.rand(TRACED[0], channels, *TRACED[1:]) * 255
    auto = torch.export.Dim.AUTO
    sizes = ({0: auto, 2: auto, 3: auto},)
    try:
        with torch.no_grad(), silenced(logging.WARNING):
            program = torch.export.export(graph, (images,), dynamic_shapes=sizes, strict=False)
    # Whatever a layer of another package raises while it is traced.
    except Exception as error:
        raise ValueError(f'the model cannot be traced: {_first_line(error)}') from error
    if len(_sizes(program)) != 3:
        raise ValueError(
            'the model can only be traced for one image size, since a layer of it depends on the '
            'size in a way that torch.export does not support'
        )
    return program


def smallest_size(program: torch.export.ExportedProgram) -> int:
    """Return the least height and width of images that a program takes."""
    return max(int(limits.lower) for limits in _sizes(program))


def _sizes(program: torch.export.ExportedProgram) -> list[Any]:
    """Return the ranges of the sizes that are free: of images, and of their number.

    Sizes that depend on what is found in an image have ranges, too, which begin at 0.
    """
    return [limits for limits in program.range_constraints.values() if limits.lower > 0]


def write(graph: Graph, channels: int, format_: str, folder: Path) -> int:
    """Write a graph into a folder, as the file that :data:`FILES` names.

    Args:
        graph: What to write.
        channels: Of the images.
        format_: One of :data:`FILES`.
        folder: An existing folder.

    Returns:
        The least height and width of images that the model takes.

    Raises:
        ValueError: The model cannot be traced or written in this format.
    """
    program = trace(graph, channels)
    path = folder / FILES[format_]
    writers: dict[str, Callable[..., None]] = dict(
        onnx=_write_onnx, openvino=_write_openvino, torch=_write_torch
    )
    try:
        with silenced(logging.WARNING):
            writers[format_](program, graph.outputs, path)
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise ValueError(
            f'the model cannot be written as {format_}: {_first_line(error)}'
        ) from error
    return smallest_size(program) if format_ == 'torch' else 1


def cut(graph: Graph, channels: int, format_: str, folder: Path) -> None:
    """Leave out outputs of a written model that its graph does not return anymore.

    Args:
        graph: As it is wanted now.
        channels: Of the images.
        format_: One of :data:`FILES`.
        folder: With the model.
    """
    path = folder / FILES[format_]
    if format_ == 'torch':
        write(graph, channels, format_, folder)  # tracing is the whole work there
    elif format_ == 'onnx':
        import onnx

        onnx.utils.extract_model(path, path, [INPUT], list(graph.outputs))
    else:
        import openvino

        model = openvino.Core().read_model(path)
        results = model.get_results()[: len(graph.outputs)]
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            draft = Path(temporary, path.name)
            wanted = openvino.Model(results, model.get_parameters())
            openvino.save_model(wanted, draft, compress_to_fp16=False)
            del model, wanted  # which keep the weights' file open
            for part in Path(temporary).iterdir():
                part.replace(folder / part.name)


def _write_onnx(
    program: torch.export.ExportedProgram, outputs: tuple[str, ...], path: Path
) -> None:
    import onnx

    written: Any = torch.onnx.export(
        program,
        dynamo=True,
        input_names=[INPUT],
        output_names=list(outputs),
        opset_version=OPSET,
        verbose=False,
        custom_translation_table=translations(),
    )
    written.save(path, external_data=False)
    _name_sizes(path)
    onnx.checker.check_model(path)
    domains = {node.domain for node in onnx.load(path, load_external_data=False).graph.node}
    if domains - {'', 'ai.onnx'}:
        raise RuntimeError(f'it needs operators that are not standard: {", ".join(domains)}')


def _name_sizes(path: Path) -> None:
    """Call the sizes of the input what they are."""
    import onnx

    model = onnx.load(path)
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    names = dict(zip((d.dim_param for d in sizes), ('batch', 'C', 'height', 'width'), strict=True))
    names.pop('', None)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            for old, new in names.items():
                size.dim_param = size.dim_param.replace(old, new)
    onnx.save(model, path)


def _write_openvino(
    program: torch.export.ExportedProgram, outputs: tuple[str, ...], path: Path
) -> None:
    import openvino

    # By way of ONNX: OpenVINO's own reader of programs fixes some sizes.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder, FILES['onnx'])
        _write_onnx(program, outputs, draft)
        model = openvino.convert_model(draft)
        openvino.save_model(model, path, compress_to_fp16=False)


def _write_torch(
    program: torch.export.ExportedProgram, outputs: tuple[str, ...], path: Path
) -> None:
    torch.export.save(program, path)


def _first_line(error: BaseException) -> str:
    """Return what went wrong first; torch's exporter wraps it into pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
