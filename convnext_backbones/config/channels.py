"""The setting ``image_channels`` at the top level of a config: images other than RGB of 8 bits.

The toolboxes load three channels of 8 bits whatever a file holds, and a config says in five places
that it wants something else: in every pipeline, in mean and std, in the backbone, and by leaving
out augmentations of colors.
"""

from __future__ import annotations

import logging
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from ..io.images import ANY_CHANNELS
from ..io.wording import first_names
from .walk import type_name, walk

SETTING = 'image_channels'
LOADER = 'LoadImageFromFile'
# The transform that every pipeline gets after it.
CHECK = 'CheckChannels'
DETECTION_PREPROCESSOR = 'DetDataPreprocessor'
ANY_CHANNELS_PREPROCESSOR = 'AnyChannelsDetDataPreprocessor'
# Entries of a config; among the hooks, RTMDet's has a pipeline for the last epochs.
WITH_PIPELINES = (
    'train_dataloader', 'val_dataloader', 'test_dataloader', 'tta_pipeline', 'custom_hooks',
)  # fmt: skip
# Augmentations that convert RGB of 8 bits to hue and saturation.
OF_COLORS = ('PhotoMetricDistortion', 'YOLOXHSVRandomAug', 'ColorTransform', 'Color', 'CLAHE')


def set_channels(cfg: Config) -> None:
    """Make every part of a config fit ``cfg.image_channels``; without it nothing changes.

    ``image_channels = dict(mean=[...], std=[...])``, with a number for each channel, in the order
    of the file and in its units. Images are then loaded with all their channels and bits, as
    float32; the data preprocessor normalizes them; the backbone gets as many input channels;
    augmentations of colors are left out, with a line in the log.

    Args:
        cfg: A config with ``default_scope`` and a model; changed in place.

    Raises:
        ValueError: The setting has another form.
    """
    setting = cfg.get(SETTING)
    if setting is None:
        return
    mean, std = _read(setting)
    removed: list[str] = []
    for name in WITH_PIPELINES:
        if cfg.get(name):
            cfg[name] = _with_loaders(cfg[name], len(mean), removed)
    if removed:
        print_log(
            f'{SETTING}: {first_names(dict.fromkeys(removed))} left out, which is for RGB images '
            'of 8 bits',
            logger='current',
            level=logging.INFO,
        )
    preprocessor = cfg.model.setdefault('data_preprocessor', {})
    if type_name(preprocessor) == DETECTION_PREPROCESSOR and len(mean) not in (1, 3):
        preprocessor['type'] = ANY_CHANNELS_PREPROCESSOR
    preprocessor.update(mean=mean, std=std, bgr_to_rgb=len(mean) == 3)
    for path, part in walk(cfg.model, 'model'):
        if path.rpartition('.')[2] == 'backbone' and 'type' in part:
            part['in_chans'] = len(mean)


def _read(setting: Any) -> tuple[list[float], list[float]]:
    """Return mean and std of the setting."""
    keys = {*setting} if isinstance(setting, dict) else set()
    values = [setting[key] for key in ('mean', 'std')] if keys == {'mean', 'std'} else []
    lists = [list(value) for value in values if isinstance(value, (list, tuple))]
    numbers = [
        number
        for one in lists
        for number in one
        if isinstance(number, (int, float)) and not isinstance(number, bool)
    ]
    lengths = {len(one) for one in lists}
    if len(lists) != 2 or len(lengths) != 1 or len(numbers) != 2 * lengths.pop() or not numbers:
        raise ValueError(
            f'expected {SETTING}=dict(mean=[...], std=[...]) with a number for each channel, got '
            f'{setting!r}'
        )
    if min(lists[1]) <= 0:
        raise ValueError(f'expected a std above 0 for each channel in {SETTING}, got {lists[1]}')
    return lists[0], lists[1]


def _with_loaders(node: Any, number: int, removed: list[str]) -> Any:
    """Return a part of a config that loads all channels and refuses images of another number.

    Args:
        node: The part.
        number: Of the channels.
        removed: Gets the names of what is left out.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = _with_loaders(value, number, removed)
        if type_name(node) == LOADER:
            node.update(color_type='unchanged', imdecode_backend=ANY_CHANNELS, to_float32=True)
        return node
    if not isinstance(node, (list, tuple)):
        return node
    changed: list[Any] = []
    for entry in node:
        name = type_name(entry)
        if name in OF_COLORS:
            removed.append(name)
        elif name != CHECK:  # of a config that was saved with this setting
            changed.append(_with_loaders(entry, number, removed))
        if name == LOADER:
            changed.append(ConfigDict(type=CHECK, number=number))
    return type(node)(changed)
