"""Find entries of configs wherever they are nested: dicts, datasets, pipelines and heads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict

# RPN heads tell objects from background, whatever the classes are; the semantic head of HTC and the
# network that tells persons apart have classes of another data set.
CLASS_AGNOSTIC = ('rpn_head', 'semantic_head', 'reid')
# Below a dataset, the paths of those that it wraps.
WRAPPED = re.compile(r'(\.dataset|\.datasets\.\d+)*')


def walk(node: object, path: str = '') -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over every dict in a part of a config, outer ones first.

    Args:
        node: A dict, a list or tuple, or a value, in which there is nothing to find.
        path: Keys that lead to ``node``, joined by dots.

    Yields:
        The path of a dict, such as ``model.backbone`` or ``pipeline.0``, and the dict itself. Its
        values may be replaced, which is how settings are changed wherever they are nested.
    """
    children: Iterable[tuple[Any, Any]]
    if isinstance(node, dict):
        yield path, node
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from walk(child, f'{path}.{key}'.lstrip('.'))


def entry_at(node: Any, path: str) -> Any:
    """Return the value at a dotted path of a config or of nested dicts, or None."""
    for key in path.split('.'):
        node = node.get(key) if isinstance(node, (dict, Config)) else None
    return node


# --- heads ----------------------------------------------------------------------------------


def list_heads(model: object) -> Iterator[ConfigDict]:
    """Iterate over the parts of a model's config that set ``num_classes`` to that of the data."""
    for path, part in walk(model):
        if 'num_classes' in part and not any(key in CLASS_AGNOSTIC for key in path.split('.')):
            yield part


def list_panoptic_heads(model: object) -> Iterator[ConfigDict]:
    """Iterate over the parts of a model's config that count things, and stuff, by themselves."""
    for _, part in walk(model):
        if 'num_things_classes' in part:
            yield part


# --- datasets and pipelines -----------------------------------------------------------------


def list_datasets(cfg: Config) -> Iterator[ConfigDict]:
    """Iterate over the datasets of all dataloaders of ``cfg``, without their wrappers."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        for _, dataset in unwrap(loader.get('dataset')):
            yield dataset


def unwrap(dataset: object, path: str = 'dataset') -> Iterator[tuple[str, ConfigDict]]:
    """Iterate over the datasets inside wrappers such as RepeatDataset, or yield the dataset itself.

    Args:
        dataset: The config of a dataset. Anything but a dict yields nothing; mmengine reports it.
        path: Keys that lead to it, joined by dots.

    Yields:
        The path of a dataset, and its config.
    """
    for place, level in _dataset_levels(dataset, path):
        several = level.get('datasets')
        if 'dataset' not in level and not (several and isinstance(several, (list, tuple))):
            yield place, level


def pipelines(dataset: object) -> Iterator[list[dict[str, Any]]]:
    """Iterate over the pipelines in the config of a dataset and of those that it wraps."""
    for _, level in _dataset_levels(dataset, 'dataset'):
        if level.get('pipeline'):
            yield level['pipeline']


def _dataset_levels(dataset: object, path: str) -> Iterator[tuple[str, ConfigDict]]:
    """Iterate over a dataset and those that it wraps, outer ones first."""
    for place, part in walk(dataset, path):
        if WRAPPED.fullmatch(place.removeprefix(path)):
            yield place, part


def annotated_dataset(cfg: Config, split: str = 'val') -> ConfigDict:
    """Return the config of an evaluation dataset that transforms annotations with the image.

    The toolboxes' pipelines for evaluation load annotations last, at the size of the file, which
    is what metrics need. A loss or a drawing needs them at the size of the image, so everything
    that is loaded is moved to the start of the pipeline.

    Args:
        cfg: A config for mmdet or mmseg; not changed.
        split: ``val`` or ``test``.

    Raises:
        ValueError: There is no such dataset, or it loads no annotations.
    """
    dataloader = cfg.get(f'{split}_dataloader')
    if not dataloader:
        raise ValueError(f'expected {split}_dataloader in the config, found none')
    dataset = deepcopy(dataloader['dataset'])
    names: list[str] = []
    for pipeline in pipelines(dataset):
        names += map(transform_name, pipeline)
        pipeline.sort(key=lambda transform: not transform_name(transform).startswith('Load'))
    if not any(name.startswith('Load') and 'Annotation' in name for name in names):
        raise ValueError(
            f'expected the pipeline of {split}_dataloader to load annotations, found no transform '
            'Load...Annotations in it; add the one of train_dataloader'
        )
    return dataset


def transform_name(transform: dict[str, Any]) -> str:
    """Return the name of a transform, whose ``type`` is a class or a name with or without scope."""
    kind = transform['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def type_name(entry: Any) -> str:
    """Return the name of the ``type`` of a part of a config; empty for anything without one."""
    kind = entry.get('type') if isinstance(entry, dict) else None
    return transform_name(entry) if isinstance(kind, (str, type)) else ''
