"""The settings ``reduce_zero_label`` and ``ignore_labels`` at the top level of a config.

mmseg reads the first in the dataset and again in each pipeline, and has nothing for the second: one
would write the label maps anew, with 255 for labels that are no class.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmengine.config import Config, ConfigDict

from .walk import list_datasets, type_name

REDUCE, IGNORE = 'reduce_zero_label', 'ignore_labels'
LOADER = 'LoadAnnotations'
# The transform that a pipeline gets before its LoadAnnotations, by its registered name.
IGNORING = 'IgnoreLabels'


def set_labels(cfg: Config) -> None:
    """Copy ``cfg.reduce_zero_label`` and ``cfg.ignore_labels`` into every dataset and pipeline.

    Without them nothing changes. The pipelines of test-time augmentation are included.

    Args:
        cfg: A config with ``default_scope``; changed in place. ``ignore_labels`` lists values of
            the label maps, as they are in the files, that are neither trained nor evaluated.

    Raises:
        ValueError: A setting has another form, or the config is not one of mmseg.
    """
    reduce, ignore = cfg.get(REDUCE), cfg.get(IGNORE)
    if reduce is None and ignore is None:
        return
    if cfg.default_scope != 'mmseg':
        name = REDUCE if reduce is not None else IGNORE
        raise ValueError(
            f'expected {name} in a config of a segmentor, got it in one of {cfg.default_scope}, '
            'which has no label maps; leave it out'
        )
    if reduce is not None and not isinstance(reduce, bool):
        raise ValueError(f'expected {REDUCE} to be True or False, got {reduce!r}')
    labels = None if ignore is None else read_labels(ignore)
    if reduce is not None:
        for dataset in list_datasets(cfg):
            dataset[REDUCE] = reduce
    for name in (*(f'{split}_dataloader' for split in ('train', 'val', 'test')), 'tta_pipeline'):
        if cfg.get(name):
            cfg[name] = _with_settings(cfg[name], reduce, labels)


def read_labels(setting: int | Iterable[int]) -> list[int]:
    """Return the values to ignore.

    Args:
        setting: Values, or one value, which mmengine makes of ``--cfg-options ignore_labels=11``.

    Raises:
        ValueError: Something is not an integer from 0 to 255.
    """
    values: list[Any] = list(setting) if isinstance(setting, (list, tuple)) else [setting]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value not in range(256):
            raise ValueError(
                f'expected {IGNORE} to list integers from 0 to 255, the values in the label maps, '
                f'got {value!r}'
            )
    return values


def _with_settings(node: Any, reduce: bool | None, labels: list[int] | None) -> Any:
    """Return a part of a config whose pipelines load annotations according to the settings."""
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = _with_settings(value, reduce, labels)
        if reduce is not None and type_name(node) == LOADER:
            node.pop(REDUCE, None)  # mmseg takes the dataset's
        return node
    if not isinstance(node, (list, tuple)):
        return node
    changed: list[Any] = []
    for entry in node:
        name = type_name(entry)
        if name == IGNORING and labels is not None:
            continue  # of a config that was saved with this setting
        if name == LOADER and labels:
            changed.append(ConfigDict(type=IGNORING, labels=labels))
        changed.append(_with_settings(entry, reduce, labels))
    return type(node)(changed)
