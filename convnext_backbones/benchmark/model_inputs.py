"""Write the image that whole models predict, and read it as the input of ``test_step``.

An image in a file takes the way of tools/predict.py: it is read, decoded, and goes through the
transforms of the test data. Its size stays that of the case, so that a network computes as much as
without the file.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config.walk import pipelines, transform_name
from ..inference.predictor import inference_pipeline, reading_options
from ..io.images import read_image
from .case import INPUT, Case

IMAGE = 'image.jpg'
# Pixels per cell of the noise that a photo is replaced by; a photo, too, has details of all sizes.
DETAILS = (2, 4, 8, 16, 32, 64)


def write_image(case: Case, folder: Path) -> None:
    """Write the image of a case to ``folder``, a JPEG or pixels, the same every time.

    Args:
        case: What to compute; it has a config.
        folder: Where :func:`input_reader` looks for the image.
    """
    generator = torch.Generator().manual_seed(1)
    if case.from_file:
        pixels = _draw_photo(case.shape, generator).permute(1, 2, 0).contiguous()
        cv2.imwrite(str(folder / IMAGE), pixels.numpy())
    else:
        size = (3, *case.shape)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        save_file(dict(images=pixels), folder / INPUT)


def _draw_photo(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return uint8 pixels, (3, H, W), that take about as long to decode as those of a photo."""
    image = torch.zeros((1, 3, *shape))
    for cell in DETAILS:
        cells = [-(-side // cell) for side in shape]
        noise = torch.randn((1, 3, *cells), generator=generator)
        image += F.interpolate(noise, shape, mode='bilinear')
    return (128 + 24 * image[0]).clamp(0, 255).to(torch.uint8)


def input_reader(case: Case, cfg: Config, folder: Path) -> Callable[[], dict]:
    """Return a function that returns the input of ``test_step``.

    With :attr:`~.case.Case.from_file` each call reads the file, decodes and transforms it;
    otherwise all calls return the same pixels, which are read once.

    Args:
        case: What to compute.
        cfg: Config of the model.
        folder: Folder that :func:`write_image` filled.

    Raises:
        ValueError: The config defines no transforms for test data, or they change the size of
            the image.
    """
    if not case.from_file:
        data = _packed(cfg, load_file(folder / INPUT)['images'].clone())
        return lambda: data
    cfg = deepcopy(cfg)
    _keep_size(cfg, case.shape)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        pipeline = inference_pipeline(cfg)
    reading = reading_options(cfg)

    def read() -> dict:
        image = read_image(folder / IMAGE, **reading)
        return pseudo_collate([pipeline(dict(img=image, img_id=0))])

    height, width = read()['inputs'][0].shape[-2:]
    if (height, width) != case.shape:
        raise ValueError(
            'expected transforms of test_dataloader that keep the size of the image, '
            f'{case.shape[0]} x {case.shape[1]}, got {height} x {width}; take out those that crop '
            'or rotate'
        )
    return read


def _keep_size(cfg: Config, shape: tuple[int, int]) -> None:
    """Let the transforms of the test data scale to ``shape``, and leave padding to the model.

    Raises:
        ValueError: There are no transforms.
    """
    transforms: Any = next(pipelines((cfg.get('test_dataloader') or {}).get('dataset')), None)
    if transforms is None:
        raise ValueError(
            'expected test_dataloader.dataset.pipeline in the config for --from-file, found none; '
            'add it, or leave --from-file out'
        )
    transforms[:] = [one for one in transforms if transform_name(one) != 'Pad']
    for one in transforms:
        if transform_name(one) == 'Resize':
            one.pop('scale_factor', None)
            one['scale'] = shape[::-1]


def _packed(cfg: Config, image: Tensor) -> dict:
    """Return the input of ``test_step`` for one image, uint8, (3, H, W)."""
    if cfg.default_scope == 'mmdet':
        from mmdet.structures import DetDataSample as DataSample
    else:
        from mmseg.structures import SegDataSample as DataSample
    shape = tuple(image.shape[1:])
    metainfo = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0))
    return dict(inputs=[image], data_samples=[DataSample(metainfo=metainfo)])
