"""Run models that tools/export.py wrote, with ONNX Runtime, OpenVINO or torch.

A folder has the model, ``config.json`` that describes it, and an example. The model takes images
and returns maps; what mmseg does around it, windows, resizing and label maps, is mmseg's here too.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ..weights.zoo import usual_file

RECORD = 'config.json'
INPUT = 'images'
META = ('classes', 'palette')  # what config.json and dataset_meta both have
FILES = dict(onnx='model.onnx', openvino='model.xml', torch='model.pt2')
# By which package a format runs.
RUNTIMES = dict(onnx='onnxruntime', openvino='openvino', torch='torch')

Run = Callable[[np.ndarray], list[np.ndarray]]


def is_exported(path: str) -> bool:
    """Whether a path is a folder that tools/export.py wrote; published ones have weights, too."""
    return Path(path, RECORD).is_file() and usual_file(Path(path)) is None


class ExportedModel:
    """An exported model, as a function of images.

    Args:
        folder: What tools/export.py wrote.

    Attributes:
        record: The contents of ``config.json``.

    Raises:
        FileNotFoundError: The folder has no model.
        ValueError: ``config.json`` is not what tools/export.py writes, or the package that runs
            the model is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.record = read_record(self.folder)
        path = self.folder / FILES[self.record['format']]
        if not path.is_file():
            raise FileNotFoundError(f'expected the model that {RECORD} describes, found no {path}')
        runners: dict[str, Callable[[Path], Run]] = dict(
            onnx=_in_onnxruntime, openvino=_in_openvino, torch=_in_torch
        )
        package = RUNTIMES[self.record['format']]
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f'expected {package} to run {str(path)!r}, and it cannot be imported ({error}); '
                "pip install 'convnext_backbones[export]'"
            ) from error
        self._run = runners[self.record['format']](path)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by name.

        Args:
            images: Of shape (N, C, H, W), values as they were read, such as BGR from 0 to 255.

        Raises:
            ValueError: The images are smaller than a program of torch.export takes.
        """
        smallest, (height, width) = self.record.get('smallest', 1), images.shape[2:]
        if min(height, width) < smallest:
            raise ValueError(
                f'expected images of at least {smallest} x {smallest} pixels for this model, got '
                f'{width} x {height}; export it as onnx'
            )
        found = self._run(np.ascontiguousarray(images, np.float32))
        return dict(zip(self.record['outputs'], found, strict=True))


def read_record(folder: Path) -> dict[str, Any]:
    """Return the contents of ``config.json``.

    Raises:
        ValueError: It is not what tools/export.py writes.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f'expected {str(path)!r} as tools/export.py writes it, got {error}'
        ) from error
    known = isinstance(record, dict) and record.get('format') in FILES
    if not known or not isinstance(record.get('outputs'), list):
        raise ValueError(
            f'expected {str(path)!r} to name a format ({", ".join(FILES)}) and outputs, as '
            'tools/export.py writes them'
        )
    return record


def _in_onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return lambda images: session.run(None, {INPUT: images})


def _in_openvino(path: Path) -> Run:
    import openvino

    settings = dict(INFERENCE_PRECISION_HINT='f32', INFERENCE_NUM_THREADS=torch.get_num_threads())
    compiled = openvino.Core().compile_model(path, 'CPU', settings)
    # Results are copied: the next call overwrites OpenVINO's own memory.
    return lambda images: [value.copy() for value in compiled([images]).values()]


def _in_torch(path: Path) -> Run:
    # Programs of detectors call these operators.
    from ..ops import graph_operators  # noqa: F401

    program = torch.export.load(path).module()

    @torch.no_grad()
    def run(images: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in program(torch.from_numpy(images))]

    return run


def classes_of(model: Any) -> int | None:
    """Return how many classes a model predicts; None if it does not say.

    Args:
        model: A detector or segmentor; of the latter, the number of maps of logits.
    """
    if hasattr(model, 'out_channels'):
        return model.out_channels
    heads = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    head = getattr(model, 'bbox_head', heads)
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    return getattr(head, 'num_classes', None)


def exported_model(model: nn.Module, folder: str | Path) -> nn.Module:
    """Return a detector or segmentor that computes with an exported model what ``model`` would.

    Args:
        model: The model of the config; its weights do not matter.
        folder: What tools/export.py wrote for a whole model.

    Raises:
        FileNotFoundError: The folder has no model.
        ValueError: It cannot be used here: another task, other classes, or a missing package.
    """
    exported = ExportedModel(folder)
    outputs = exported.record['outputs']
    segments = isinstance(getattr(model, 'decode_head', None), nn.Module)
    wanted = ['logits'] if segments else ['boxes', *(['masks'] if _has_masks(model) else [])]
    if not set(wanted) <= set(outputs):
        raise ValueError(
            f'expected an exported model with the outputs {", ".join(wanted)}, as the '
            f'{type(model).__name__} of the config has, got one with {", ".join(outputs)}'
        )
    if exported.record.get('num_classes') != classes_of(model):
        raise ValueError(
            f'expected an exported model of {classes_of(model)} classes, as the config says, got '
            f'{exported.record.get("num_classes")}'
        )
    running: Any
    if segments:
        from .segmentors import ExportedSegmentor

        running = ExportedSegmentor(cast(Any, model), exported)
    else:
        from .exported_detectors import ExportedDetector

        running = ExportedDetector(model, exported)
    meta = {key: exported.record[key] for key in META if exported.record.get(key)}
    running.dataset_meta = {**(getattr(model, 'dataset_meta', None) or {}), **meta}
    return running.eval()


def _has_masks(model: Any) -> bool:
    return bool(getattr(model, 'with_mask', False))
