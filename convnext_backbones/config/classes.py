"""The setting ``classes`` at the top level of a config: one place for the names of the classes.

OpenMMLab needs the names in the ``metainfo`` of every dataset and their number in every head. A
forgotten place raises no error: annotations are dropped, and the evaluation finds nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope

from .walk import list_datasets, list_heads, list_panoptic_heads, walk

# What a dataset of things and stuff and a panoptic head call them.
THINGS, STUFF = 'thing_classes', 'stuff_classes'
NUM_THINGS, NUM_STUFF = 'num_things_classes', 'num_stuff_classes'


def set_classes(cfg: Config) -> None:
    """Copy ``cfg.classes`` into every dataset and every head; without it nothing changes.

    Evaluators take the names from the datasets. An mmseg dataset made for other classes, such as
    ADE20KDataset, becomes a BaseSegDataset that finds the same files.

    Panoptic heads tell things, which have instances, from stuff, which has none. Beside
    ``classes`` they need ``cfg.stuff_classes``, the names at the end of ``classes`` that are stuff.

    A model whose heads have no number of classes is only a warning: the config may use
    ``classes`` for something else.

    Args:
        cfg: A config with ``default_scope``; changed in place. ``classes`` is a list of names, or
            the path of a text file with one name per line.

    Raises:
        ValueError: The setting holds no names, a name twice, or something that is not a name; a
            head has weights for another number of classes; stuff is not named where the head needs
            it, or not last; or a dataset's metainfo is not a dict.
    """
    if cfg.get('classes') is None:
        return
    classes = read_classes(cfg.classes)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for dataset in list_datasets(cfg):
            _set_names(dataset, classes)
    heads = list(list_heads(cfg.model))
    panoptic = list(list_panoptic_heads(cfg.model))
    if panoptic:
        stuff = _read_stuff(cfg, panoptic, classes)
        for head in panoptic:
            _set_things(head, len(classes) - len(stuff), len(stuff))
        if stuff:
            for dataset in list_datasets(cfg):
                dataset.metainfo |= {THINGS: classes[: -len(stuff)], STUFF: stuff}
    elif not heads:
        print_log(
            'The setting classes was applied to the datasets only: no head of the model has '
            'num_classes.',
            logger='current',
            level=logging.WARNING,
        )
    for head in heads:
        _set_number(head, len(classes))


def read_classes(setting: str | Sequence[str | int]) -> tuple[str, ...]:
    """Return the names of the classes.

    Args:
        setting: Names, one name, or the path of a text file with one name per line. Integers,
            which mmengine makes of ``--cfg-options classes=1,2``, are names too.

    Raises:
        ValueError: There is no name, a name twice, or something that is not a name.
    """
    if isinstance(setting, str):
        path = Path(setting)
        setting = path.read_text(encoding='utf-8').splitlines() if path.is_file() else [setting]
    names: list[str] = []
    for entry in setting:
        name = str(entry) if type(entry) is int else entry  # a bool is no name
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f'expected names for the setting classes, got {name!r}')
        names.append(name)
    if not names:
        raise ValueError('expected names for the setting classes, got none')
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f'expected every class once, got {min(repeated)!r} more than once')
    return tuple(names)


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
        metainfo.pop('palette', None)  # it belongs to other classes
    if _cannot_map(kind, known, classes):
        _generalize(dataset, kind)
    elif 'palette' not in metainfo and 0 < len(known.get('palette', ())) < len(classes):
        # mmdet draws label i in color i, so there must be a color for every label.
        colors = np.random.RandomState(0).randint(0, 256, (len(classes), 3))
        metainfo['palette'] = [tuple(color) for color in colors.tolist()]
    dataset.metainfo = metainfo


def _cannot_map(kind: Any, known: dict[str, Any], classes: tuple[str, ...]) -> bool:
    """Whether mmseg would refuse ``classes``: its datasets accept a subset of their own only."""
    is_mmseg = hasattr(kind, 'get_label_map')
    return is_mmseg and not set(classes) <= set(known.get('classes', classes))


def _generalize(dataset: ConfigDict, kind: Any) -> None:
    """Turn an mmseg dataset into a BaseSegDataset, with the same rules for file names."""
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if parameter.default not in (inspect.Parameter.empty, None):
            dataset.setdefault(name, parameter.default)
    dataset.type = 'mmseg.BaseSegDataset'


def _read_stuff(
    cfg: Config, heads: Sequence[ConfigDict], classes: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the names in ``classes`` that are stuff; none if the heads know things only."""
    setting = cfg.get(STUFF)
    if setting is None:
        if any(head.get(NUM_STUFF) for head in heads):
            raise ValueError(
                f'expected {STUFF} beside classes, because the head is panoptic: the names at the '
                f'end of classes that have no instances, such as sky; {STUFF} = () if there are '
                'none'
            )
        return ()
    stuff = read_classes(setting) if len(setting) else ()
    if stuff and stuff != classes[-len(stuff) :]:
        raise ValueError(
            f'expected {STUFF} to be the last names in classes, in the same order, got {stuff} '
            f'beside {classes}'
        )
    return stuff


def _set_things(head: ConfigDict, things: int, stuff: int) -> None:
    _fit_class_weights(head, head.get(NUM_THINGS, 0) + head.get(NUM_STUFF, 0), things + stuff)
    head[NUM_THINGS], head[NUM_STUFF] = things, stuff


def _set_number(head: ConfigDict, number: int) -> None:
    _fit_class_weights(head, head.num_classes, number)
    # mmseg's name for the channels of the logits. A 1 means two classes in one channel.
    if head.get('out_channels') == head.num_classes:
        head.out_channels = number
    head.num_classes = number


def _fit_class_weights(head: ConfigDict, old: int, number: int) -> None:
    """Make the weights of a head's losses as many as its classes, where they are all the same.

    mmdet's losses weight the background last.
    """
    for loss in _weighted_losses(head):
        weights = loss.class_weight
        background = list(weights[old:]) if len(weights) == old + 1 else []
        if len({*weights[:old]}) == 1 and len(weights) - len(background) == old:
            loss.class_weight = [weights[0]] * number + background
        elif len(weights) not in (number, number + 1):
            raise ValueError(
                f'expected a class_weight for each of {number} classes, got {len(weights)} in '
                f'{head.get("type")}; set class_weight as well'
            )


def _weighted_losses(head: ConfigDict) -> Iterator[ConfigDict]:
    """Iterate over a head's losses that have ``class_weight`` lists."""
    for path, part in walk(head):
        if path and isinstance(part.get('class_weight'), (list, tuple)):
            yield part
