"""Write the folder of an exported model: model, description, example and how to run it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..inference.exported import FILES, INPUT, RECORD, ExportedModel, classes_of
from ..io.files import write_atomically, write_json
from ..version import __version__
from . import formats, parity, quantize
from .graph import DetectorGraph, Graph, channels_of
from .graphs import make_graph
from .read_me import read_me

EXAMPLE = 'example.npz'
READ_ME = 'README.md'
EXAMPLE_SIZE = (128, 192)


@dataclass(frozen=True)
class Wanted:
    """What to export.

    Attributes:
        format_: ``onnx``, ``openvino`` or ``torch``.
        part: ``model`` or ``backbone``.
        precision: ``fp32``, ``fp16`` or ``int8``; the last two for ``onnx`` only.
        images: Each of shape (N, C, H, W), as they were read: the first becomes the example, the
            first three are compared, all calibrate int8. By default, generated ones.
    """

    format_: str = 'onnx'
    part: str = 'model'
    precision: str = 'fp32'
    images: Sequence[np.ndarray] = field(default=())

    def check(self) -> None:
        """Refuse what cannot be written.

        Raises:
            ValueError: No such format or precision here, or its package is missing.
        """
        formats.check_packages(self.format_)
        if self.precision not in quantize.PRECISIONS:
            known = ', '.join(quantize.PRECISIONS)
            raise ValueError(f'expected a precision of {known}, got {self.precision!r}')
        if self.precision != 'fp32' and self.format_ != 'onnx':
            raise ValueError(
                f'expected --format onnx with --precision {self.precision}, got {self.format_!r}: '
                "ONNX Runtime's tools convert it"
            )
        if self.precision == 'int8' and not self.images:
            raise ValueError('expected images for int8, got none; give --images FOLDER')


def export(model: nn.Module, out: Path, wanted: Wanted) -> parity.Parity:
    """Export a model into a new folder, once its outputs have been compared.

    Args:
        model: A detector or segmentor with trained weights and ``dataset_meta``.
        out: The folder, which must not exist, or be empty.
        wanted: What to export.

    Returns:
        How far the exported model is from the original. In fp32 it is close; in fp16 and int8 this
        is the loss.

    Raises:
        ValueError: The model cannot be exported so, or the folder is not empty.
    """
    wanted.check()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f'expected a new or an empty folder, got {str(out)!r}')
    graph = make_graph(model, wanted.part)
    if isinstance(graph, DetectorGraph) and wanted.precision == 'fp16':
        raise ValueError(
            'expected fp32 or int8 for a whole detector, got fp16, in which boxes are rounded to '
            'pixels, and boxes of different classes, which NMS moves apart, to infinity; its '
            'backbone alone can be: --part backbone'
        )
    channels = channels_of(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        draft = Path(temporary, 'draft')
        draft.mkdir()
        found, record = _write_compared(model, graph, wanted, draft)
        exported = ExportedModel(draft)
        example: dict[str, Any] = make_example(exported, wanted.images, channels)
        np.savez_compressed(draft / EXAMPLE, **example)
        write_atomically(draft / READ_ME, read_me(record))
        del exported  # which may keep the file open
        if out.exists():
            out.rmdir()
        os.replace(draft, out)
    return found


def _write_compared(
    model: nn.Module, graph: Graph, wanted: Wanted, draft: Path
) -> tuple[parity.Parity, dict[str, Any]]:
    """Write model and description, and compare the model with the original.

    Raw values of detectors are compared, and then cut off.

    Raises:
        ValueError: The outputs differ, or the model cannot be written.
    """
    channels = channels_of(model)
    compares_raw = isinstance(graph, DetectorGraph) and wanted.precision == 'fp32'
    if isinstance(graph, DetectorGraph) and compares_raw:
        graph.keep_raw(torch.from_numpy(parity.random_images(channels, 64)[0]))
    record = write_model(model, graph, wanted, draft)
    images = list(wanted.images[:3]) or parity.random_images(channels, record['smallest'])
    found = _compare(graph, ExportedModel(draft), images, wanted.precision == 'fp32')
    if wanted.precision == 'fp32':
        parity.check(found)
    if isinstance(graph, DetectorGraph) and compares_raw:
        graph.raw = 0
        formats.cut(graph, channels, wanted.format_, draft)
        record['outputs'] = list(graph.outputs)
    record['parity'] = vars(found)
    write_json(draft / RECORD, record)
    return found, record


def write_model(model: nn.Module, graph: Graph, wanted: Wanted, folder: Path) -> dict[str, Any]:
    """Write a model, uncompared, and its description into an existing folder.

    Args:
        model: A detector or segmentor.
        graph: What is exported of it.
        wanted: In which way.
        folder: Where to.

    Returns:
        The contents of ``config.json``.

    Raises:
        ValueError: The model cannot be written so.
    """
    record = describe(model, graph, wanted)
    record['smallest'] = formats.write(graph, channels_of(model), wanted.format_, folder)
    _shrink(folder, wanted)
    write_json(folder / RECORD, record)
    return record


def _shrink(folder: Path, wanted: Wanted) -> None:
    path = folder / FILES[wanted.format_]
    if wanted.precision == 'fp16':
        quantize.convert_to_fp16(path)
    elif wanted.precision == 'int8':
        quantize.quantize(path, wanted.images)


def _compare(
    graph: Graph, exported: ExportedModel, images: Sequence[np.ndarray], exact: bool
) -> parity.Parity:
    if isinstance(graph, DetectorGraph):
        return parity.measure_detector(graph, exported, images, exact)
    return parity.measure(graph, exported, images)


def describe(model: nn.Module, graph: Graph, wanted: Wanted) -> dict[str, Any]:
    """Return the contents of ``config.json``: plain data."""
    normalize, meta = graph.normalize, getattr(model, 'dataset_meta', None) or {}
    backbone: Any = model.backbone
    return dict(
        format=wanted.format_,
        file=FILES[wanted.format_],
        precision=wanted.precision,
        part=wanted.part,
        model=type(model).__name__,
        backbone=dict(depths=list(backbone.variant.depths), dims=list(backbone.variant.dims)),
        input=dict(
            name=INPUT,
            shape=['batch', channels_of(model), 'height', 'width'],
            dtype='float32',
            values='as read from the file: BGR, 0 to 255' if normalize.reverses else 'as read',
        ),
        outputs=list(graph.outputs),
        # Whether a program of torch.export calls operators of this package.
        operators=isinstance(graph, DetectorGraph) and graph.operators,
        # Of a segmentor, the maps of logits; of a backbone, None.
        num_classes=classes_of(model) if wanted.part == 'model' else None,
        # In the order of the network's channels; the model applies them itself.
        mean=normalize.mean.flatten().tolist(),
        std=normalize.std.flatten().tolist(),
        classes=list(meta.get('classes') or ()),
        palette=[list(color) for color in meta.get('palette') or ()],
        test_cfg=dict(getattr(model, 'test_cfg', None) or {}) if wanted.part == 'model' else {},
        versions=dict(convnext_backbones=__version__, torch=str(torch.__version__)),
    )


def make_example(
    exported: ExportedModel, images: Sequence[np.ndarray], channels: int
) -> dict[str, np.ndarray]:
    """Return an image of shape (height, width, channels) and the exported model's result.

    Args:
        exported: The model.
        images: The first image of the first is taken; if there are none, one is made.
        channels: Of the images.
    """
    if images:
        image = images[0][0].transpose(1, 2, 0)
    else:
        height, width = (max(side, exported.record['smallest']) for side in EXAMPLE_SIZE)
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(x / (9 + 4 * i)) + np.cos(y / (7 + 3 * i)) for i in range(channels)]
        image = (127.5 + 60 * np.stack(waves, -1)).astype(np.uint8)
    found = exported(image.transpose(2, 0, 1)[None])
    # The label map is enough of a segmentor's outputs: logits take a hundred times its space.
    kept = {name: value for name, value in found.items() if name != 'logits'}
    return dict(image=image, **{name: value[0] for name, value in kept.items()})
