"""What pipelines and models need for images of any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import MODELS, TRANSFORMS
from torch import nn


@TRANSFORMS.register_module()
class CheckChannels:
    """Refuse images of another number of channels, which normalization would spread over all.

    The setting ``image_channels`` of a config puts it behind the loading of images.

    Args:
        number: Of the channels that an image must have.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample as it is.

        Raises:
            UnreadableFileError: Its image has another number of channels.
        """
        from ..io.images import UnreadableFileError  # which needs mmcv

        shape = results['img'].shape
        channels = shape[2] if len(shape) > 2 else 1
        if channels != self.number:
            raise UnreadableFileError(
                f'expected {self.number} channels, as image_channels says, in '
                f'{results.get("img_path")!r}, got {channels}'
            )
        return results


@MODELS.register_module(name='AnyChannelsDetDataPreprocessor')
def any_channels_preprocessor(
    mean: Sequence[float], std: Sequence[float], **options: Any
) -> nn.Module:
    """Build mmdet's DetDataPreprocessor, which accepts means of one and three channels only.

    The setting ``image_channels`` of a config names it. mmseg's preprocessor takes any number.

    Args:
        mean: Of each channel, in the order in which images are loaded.
        std: Of each channel.
        options: Other arguments of mmdet's DetDataPreprocessor.

    Raises:
        ValueError: ``mean`` and ``std`` differ in length.
    """
    from mmdet.models import DetDataPreprocessor  # mmdet is not needed to import this package

    if len(mean) != len(std):
        raise ValueError(
            f'expected a mean and a std for each channel, got {len(mean)} and {len(std)}'
        )
    preprocessor = DetDataPreprocessor(**options)
    for name, values in (('mean', mean), ('std', std)):
        preprocessor.register_buffer(name, torch.tensor(values).float().view(-1, 1, 1), False)
    preprocessor._enable_normalize = True  # mmengine normalizes with these buffers then
    return preprocessor
