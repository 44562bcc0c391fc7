"""What can be said about the data of a config, without a word about where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from ..config.walk import type_name, unwrap


@dataclass(frozen=True)
class DataFacts:
    """The data of a config.

    Attributes:
        format_: The class that reads them, such as ``CocoDataset``.
        known: Name of the data set, if the classes are those that the class itself has; else
            empty, as the data are somebody's own.
        classes: Names of the classes.
        counts: Images, and annotated objects where there are any, in words, by ``training``,
            ``validation`` and ``test``.
        problem: Why the data could not be counted, in one sentence; empty if they were.
    """

    format_: str
    known: str
    classes: tuple[str, ...]
    counts: Mapping[str, str]
    problem: str = ''


def data_facts(cfg: Config, classes: tuple[str, ...]) -> DataFacts:
    """Return the facts; the data are counted if they are on this machine.

    Args:
        cfg: A detection or segmentation config.
        classes: Of the model.
    """
    loaders = dict(training='train_dataloader', validation='val_dataloader', test='test_dataloader')
    counts, problem = {}, ''
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        _, dataset = next(iter(unwrap(cfg.test_dataloader.dataset)))
        kind = DATASETS.get(type_name(dataset))
        for split, loader in loaders.items():
            try:
                counts[split] = _count(cfg.get(loader) or {})
            except Exception as error:  # readers of data raise anything
                problem = f'{split}: {type(error).__name__}: {" ".join(str(error).split())}'
    own = tuple(getattr(kind, 'METAINFO', {}).get('classes') or ())
    known = type_name(dataset).removesuffix('Dataset') if own and own == classes else ''
    counts = {split: words for split, words in counts.items() if words}
    return DataFacts(type_name(dataset), known, classes, counts, problem)


def _count(loader: Mapping[str, Any]) -> str:
    """Return how much the datasets of a dataloader hold; what they filter out does not count.

    Datasets that are repeated count once.
    """
    images = objects = 0
    for _, entry in unwrap(loader.get('dataset')):
        dataset = DATASETS.build(deepcopy(entry))
        images += len(dataset)
        infos = map(dataset.get_data_info, range(len(dataset)))
        objects += sum(
            not instance.get('ignore_flag')
            for info in infos
            for instance in info.get('instances', ())
        )
    return f'{images:,} images' * bool(images) + f' with {objects:,} objects' * bool(objects)
