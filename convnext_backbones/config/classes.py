"""One setting for the classes of a config: ``classes``, at its top level.

OpenMMLab wants the names in the ``metainfo`` of every dataset and their number in every head.
What is forgotten raises no error: annotations are dropped, and the evaluation finds nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import DATASETS, init_default_scope

from .walk import list_datasets, list_heads, walk


def set_classes(cfg: Config) -> None:
    """Carry ``cfg.classes`` into every dataset and every head; without it nothing changes.

    The evaluators take the names from the datasets. An mmseg dataset that is made for other
    classes, such as ADE20KDataset, becomes a BaseSegDataset that finds the same files.

    A model without ``num_classes`` in its heads is a warning: the name may be the config's own.

    Args:
        cfg: A config with ``default_scope``; changed in place. ``classes`` are names, or the path
            of a text file with a name a line.

    Raises:
        ValueError: The names are none, or repeat themselves, or are not names; a head weighs
            others one by one; or the metainfo of a dataset is no dict.
    """
    if cfg.get('classes') is None:
        return
    classes = read_classes(cfg.classes)
    init_default_scope(cfg.default_scope)
    for dataset in list_datasets(cfg):
        _set_names(dataset, classes)
    heads = list(list_heads(cfg.model))
    if not heads:
        print_log(
            'The setting classes has reached the datasets only: no head of the model has '
            'num_classes.',
            logger='current',
            level=logging.WARNING,
        )
    for head in heads:
        _set_number(head, len(classes))


def read_classes(setting: str | Sequence[str | int]) -> tuple[str, ...]:
    """The names that the setting stands for.

    Args:
        setting: Names, one name, or the path of a text file with a name a line. Integers, which
            mmengine makes of ``--cfg-options classes=1,2``, are names too.

    Raises:
        ValueError: There is no name, or one twice, or something else than a name.
    """
    if isinstance(setting, str):
        path = Path(setting)
        setting = path.read_text().splitlines() if path.is_file() else [setting]
    names = tuple(str(name) if type(name) is int else name for name in setting)
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    if wrong or not names:
        got = repr(wrong[0]) if wrong else 'none'
        raise ValueError(f'expected names for the setting classes, got {got}')
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f'expected every class once, got {min(twice)!r} more than once')
    return names


def _set_names(dataset: ConfigDict, classes: tuple[str, ...]) -> None:
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    known = getattr(kind, 'METAINFO', {})
    metainfo = dataset.get('metainfo') or {}
    if not isinstance(metainfo, dict):
        raise ValueError(f'expected metainfo of a dataset to be a dict, got {metainfo!r}')
    metainfo = {**metainfo, 'classes': classes}
    palette = metainfo.get('palette')
    if not isinstance(palette, (list, tuple)) or len(palette) != len(classes):
        metainfo.pop('palette', None)  # of other classes
    if _cannot_map(kind, known, classes):
        _generalize(dataset, kind)
    elif 'palette' not in metainfo and 0 < len(known.get('palette', ())) < len(classes):
        # mmdet draws label i in color i.
        colors = np.random.RandomState(0).randint(0, 256, (len(classes), 3))
        metainfo['palette'] = [tuple(color) for color in colors.tolist()]
    dataset.metainfo = metainfo


def _cannot_map(kind: type, known: dict, classes: tuple[str, ...]) -> bool:
    """Whether mmseg would refuse ``classes``: those of its datasets can only be chosen from."""
    return hasattr(kind, 'get_label_map') and not {*classes} <= {*known.get('classes', classes)}


def _generalize(dataset: ConfigDict, kind: type) -> None:
    """Make an mmseg dataset one without classes of its own, with the same rules for files."""
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if parameter.default not in (inspect.Parameter.empty, None):
            dataset.setdefault(name, parameter.default)
    dataset.type = 'mmseg.BaseSegDataset'


def _set_number(head: ConfigDict, number: int) -> None:
    for weights in _class_weights(head):
        if len(weights) not in (number, number + 1):  # of mmdet's losses the last is background's
            raise ValueError(
                f'expected a class_weight for each of {number} classes, got {len(weights)} in '
                f'{head.get("type")}; set class_weight as well'
            )
    # mmseg's name for the channels of the logits; 1 stands for two classes in one channel.
    if head.get('out_channels') == head.num_classes:
        head.out_channels = number
    head.num_classes = number


def _class_weights(head: ConfigDict) -> Iterator[Sequence[float]]:
    """Iterate over the ``class_weight`` lists of a head's losses."""
    for path, part in walk(head):
        if path and isinstance(part.get('class_weight'), (list, tuple)):
            yield part['class_weight']
