"""Choose the check that fits each dataset, and compare evaluators and splits."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from mmengine.config import Config

from .coco import check_coco
from .coco_evaluation import check_evaluation
from .findings import WARNING, Finding, Kind, several
from .label_maps import check_label_maps
from .sources import Source


def check_data(
    cfg: Config, sources: Iterable[Source], ignored: frozenset[int], thorough: bool
) -> Iterator[Finding]:
    """Check the files of datasets.

    Args:
        cfg: The config of the datasets.
        sources: The datasets.
        ignored: Labels that the losses of a segmentor ignore.
        thorough: Open all files, as in :func:`~.preflight.find_problems`.
    """
    images: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        backend = (getattr(source.dataset, 'backend_args', None) or {}).get('backend', 'local')
        if backend == 'local' and reads_coco(source):
            findings, paths = check_coco(source, thorough)
        elif backend == 'local' and reads_label_maps(source):
            findings, paths = check_label_maps(source, ignored, thorough)
        else:
            findings, paths = [_not_checked(source, backend)], set()
        yield from findings
        images[source.split] |= paths
        yield from _check_evaluator(cfg, source)
    for split in images:
        yield from check_evaluation(cfg, split)
    yield from _check_overlap(images)


def _not_checked(source: Source, backend: str) -> Finding:
    return Finding(
        WARNING,
        f'{type(source.dataset).__name__} with the backend {backend!r}: its files are not checked',
        source.entry,
        'look at samples with tools/browse_data.py',
    )


def _check_overlap(images: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Find images for evaluation that are used for training.

    Args:
        images: By split: the absolute paths of its images.
    """
    for split, paths in images.items():
        shared = sorted(paths & images.get('train', set())) if split != 'train' else ()
        if shared:
            kind = Kind(
                WARNING,
                f'images of the {split} data that are also train data',
                'evaluate on images that are not trained on',
            )
            yield several(kind, shared, f'{split}_dataloader')


def reads_coco(source: Source) -> bool:
    """Whether a dataset reads its file as mmdet's CocoDataset does."""
    try:
        from mmdet.datasets import CocoDataset
    except ImportError:
        return False
    own = type(source.dataset)
    return (
        issubclass(own, CocoDataset)
        and own.load_data_list is CocoDataset.load_data_list
        and own.COCOAPI is CocoDataset.COCOAPI
    )


def reads_label_maps(source: Source) -> bool:
    """Whether a dataset lists its files as mmseg's BaseSegDataset does."""
    try:
        from mmseg.datasets import BaseSegDataset
    except ImportError:
        return False
    own = type(source.dataset)
    return issubclass(own, BaseSegDataset) and own.load_data_list is BaseSegDataset.load_data_list


def _check_evaluator(cfg: Config, source: Source) -> Iterator[Finding]:
    """Compare the annotation file that metrics read on their own with that of the dataset."""
    evaluators = cfg.get(f'{source.split}_evaluator') or ()
    for evaluator in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
        file, own = evaluator.get('ann_file'), source.dataset.ann_file
        if file and os.path.abspath(file) != os.path.abspath(own):
            yield Finding(
                WARNING,
                f'metrics that read {file!r}, for data from {own!r}',
                f'{source.split}_evaluator',
                'set its ann_file to that of the dataset, including the data_root',
            )
