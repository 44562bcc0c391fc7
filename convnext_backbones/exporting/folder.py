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

from ..inference.exported import FILES, INPUT, RECORD, ExportedModel
from ..io.files import write_atomically, write_json
from ..version import __version__
from . import formats, parity, quantize
from .graphs import BackboneGraph, SegmentorGraph, channels_of, make_graph

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
        calibration: Images for int8, each of shape (N, C, H, W), as they were read.
    """

    format_: str = 'onnx'
    part: str = 'model'
    precision: str = 'fp32'
    calibration: Sequence[np.ndarray] = field(default=())

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
        if self.precision == 'int8' and not self.calibration:
            raise ValueError('expected images for int8, got none; give --calibration FOLDER')


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
    channels = channels_of(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        draft = Path(temporary, 'draft')
        draft.mkdir()
        path = formats.write(graph, channels, wanted.format_, draft)
        if wanted.precision == 'fp16':
            quantize.convert_to_fp16(path)
        elif wanted.precision == 'int8':
            quantize.quantize(path, wanted.calibration)
        record = describe(model, graph, wanted)
        write_json(draft / RECORD, record)
        exported = ExportedModel(draft)
        images = list(wanted.calibration[:3]) or parity.random_images(channels)
        found = parity.measure(graph, exported, images)
        if wanted.precision == 'fp32':
            parity.check(found)
        write_json(draft / RECORD, {**record, 'parity': vars(found)})
        example: dict[str, Any] = make_example(exported, channels)
        np.savez_compressed(draft / EXAMPLE, **example)
        write_atomically(draft / READ_ME, read_me(record))
        del exported  # which may keep the file open
        if out.exists():
            out.rmdir()
        os.replace(draft, out)
    return found


def describe(
    model: nn.Module, graph: BackboneGraph | SegmentorGraph, wanted: Wanted
) -> dict[str, Any]:
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
        out_channels=getattr(model, 'out_channels', None),
        # In the order of the network's channels; the model applies them itself.
        mean=normalize.mean.flatten().tolist(),
        std=normalize.std.flatten().tolist(),
        classes=list(meta.get('classes') or ()),
        palette=[list(color) for color in meta.get('palette') or ()],
        test_cfg=dict(getattr(model, 'test_cfg', None) or {}) if wanted.part == 'model' else {},
        versions=dict(convnext_backbones=__version__, torch=str(torch.__version__)),
    )


def make_example(exported: ExportedModel, channels: int) -> dict[str, np.ndarray]:
    """Return an image of shape (height, width, channels) and the exported model's result."""
    height, width = EXAMPLE_SIZE
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + 4 * i)) + np.cos(y / (7 + 3 * i)) for i in range(channels)]
    image = (127.5 + 60 * np.stack(waves, -1)).astype(np.uint8)
    found = exported(image.transpose(2, 0, 1)[None])
    kept = {name: found[name] for name in found if name == 'labels' or 'labels' not in found}
    return dict(image=image, **{name: value[0] for name, value in kept.items()})


def read_me(record: dict[str, Any]) -> str:
    """Return the text of the README: what the model is, and the code that runs it."""
    name = 'labels' if 'labels' in record['outputs'] else record['outputs'][0]
    place = record['outputs'].index(name)
    runs = dict(
        onnx=(
            'import onnxruntime\n',
            f"session = onnxruntime.InferenceSession('{FILES['onnx']}')\n"
            f"outputs = session.run(None, {{'{INPUT}': images}})\n",
        ),
        openvino=(
            'import openvino\n',
            "settings = {'INFERENCE_PRECISION_HINT': 'f32'}  # some CPUs take bf16 otherwise\n"
            f"model = openvino.Core().compile_model('{FILES['openvino']}', 'CPU', settings)\n"
            'outputs = list(model([images]).values())\n',
        ),
        torch=(
            'import torch\n',
            f"model = torch.export.load('{FILES['torch']}').module()\n"
            'outputs = [output.numpy() for output in model(torch.from_numpy(images))]\n',
        ),
    )
    imported, run = runs[record['format']]
    return (
        f'# {record["model"]}, {record["part"]}, {record["precision"]}\n\n'
        f'`{RECORD}` has classes, mean, std and the rest. Images are of any size, '
        f'{record["input"]["values"]}.\n\n'
        '```python\nimport numpy as np\n'
        f'{imported}\n'
        f"example = np.load('{EXAMPLE}')\n"
        "images = example['image'].transpose(2, 0, 1)[None].astype(np.float32)\n"
        f'{run}'
        f"print(abs(outputs[{place}][0] - example['{name}']).max())  # 0, or a rounding error\n"
        '```\n'
    )
