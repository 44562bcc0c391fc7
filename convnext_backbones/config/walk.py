"""Walk over configs: entries, datasets, pipelines and heads, wherever they are nested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy

from mmengine.config import Config, ConfigDict

# RPN heads tell objects from background, whatever the classes are.
CLASS_AGNOSTIC = ('rpn_head',)


def entries(node: object, place: str = '') -> Iterator[tuple[str, Mapping]]:
    """The dicts in a part of a config, and the keys that lead to them, joined by dots."""
    if isinstance(node, Mapping):
        yield place, node
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from entries(child, f'{place}.{key}'.lstrip('.'))


def dicts_in(node) -> Iterator[dict]:
    """Every dict in ``node``."""
    if isinstance(node, dict):
        yield node
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for child in node:
        yield from dicts_in(child)


def list_datasets(cfg: Config) -> Iterator[ConfigDict]:
    """The datasets of the dataloaders of ``cfg``, without the wrappers around them."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        for _, dataset in unwrap(loader.get('dataset')):
            yield dataset


def unwrap(dataset: ConfigDict | None, place: str = 'dataset') -> Iterator[tuple[str, ConfigDict]]:
    """The datasets inside of wrappers such as RepeatDataset, or the dataset itself.

    Args:
        dataset: A config; what is no dict is left to mmengine's complaint.
        place: The keys that lead to it, joined by dots.

    Yields:
        The place of a dataset, and its config.
    """
    if not isinstance(dataset, dict):
        return
    several = dataset.get('datasets')
    several = several if isinstance(several, (list, tuple)) else ()
    inner = {f'datasets.{i}': one for i, one in enumerate(several)}
    if 'dataset' in dataset:
        inner['dataset'] = dataset.dataset
    for key, one in inner.items():
        yield from unwrap(one, f'{place}.{key}')
    if not inner:
        yield place, dataset


def list_heads(model) -> Iterator[ConfigDict]:
    """The parts of a model's config that name ``num_classes``, at any depth."""
    if isinstance(model, (list, tuple)):
        for part in model:
            yield from list_heads(part)
    elif isinstance(model, dict):
        if 'num_classes' in model:
            yield model
        for key, part in model.items():
            if key not in CLASS_AGNOSTIC:
                yield from list_heads(part)


def entry_at(entry, path: str):
    """What is at a dotted path of a config or of nested dicts; None where there is none."""
    for key in path.split('.'):
        entry = entry.get(key) if isinstance(entry, (dict, Config)) else None
    return entry


def annotated_dataset(cfg: Config, split: str = 'val') -> ConfigDict:
    """The config of a dataset for evaluation, changed so that annotations are transformed too.

    The toolboxes' pipelines for evaluation load annotations last, at the size of the file, which
    is what metrics need. A loss, or a drawing, needs them at the size of the image: here whatever
    is loaded is loaded first.

    Args:
        cfg: A config of mmdet or mmseg; it is left as it is.
        split: ``val`` or ``test``.

    Raises:
        ValueError: There is no such dataset, or it loads no annotations.
    """
    dataloader = cfg.get(f'{split}_dataloader')
    if not dataloader:
        raise ValueError(f'expected {split}_dataloader in the config, found none')
    dataset = deepcopy(dataloader['dataset'])
    names = []
    for pipeline in pipelines(dataset):
        names += map(transform_name, pipeline)
        pipeline.sort(key=lambda transform: not transform_name(transform).startswith('Load'))
    if not any(name.startswith('Load') and 'Annotation' in name for name in names):
        raise ValueError(
            f'expected the pipeline of {split}_dataloader to load annotations, found no transform '
            'Load...Annotations in it; add the one of train_dataloader'
        )
    return dataset


def pipelines(dataset: dict) -> Iterator[list[dict]]:
    """The pipelines in the config of a dataset and of those that it wraps."""
    if dataset.get('pipeline'):
        yield dataset['pipeline']
    for wrapped in (dataset.get('dataset'), *(dataset.get('datasets') or ())):
        if wrapped:
            yield from pipelines(wrapped)


def transform_name(transform: dict) -> str:
    """The name of a transform in a config, which holds a class, or a name with or without scope."""
    name = transform['type']
    return name.rpartition('.')[2] if isinstance(name, str) else name.__name__
