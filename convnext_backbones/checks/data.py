"""Choose the check that fits each dataset, and compare evaluators and splits."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from mmengine.config import Config

from .coco import check_coco
from .findings import WARNING, Finding, Kind, several
from .label_maps import check_label_maps
from .sources import Source


def check_data(
    cfg: Config, sources: Iterable[Source], ignored: frozenset[int], thorough: bool
) -> Iterator[Finding]:
    """Check the files of datasets.

    Args:
        cfg: The config that they are of.
        sources: The datasets.
        ignored: Labels that the losses of a segmentor leave out.
        thorough: As in :func:`find_problems`.
    """
    images: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        backend = (getattr(source.dataset, 'backend_args', None) or {}).get('backend', 'local')
        if backend == 'local' and _reads_coco(source):
            images[source.split] |= yield from check_coco(source, thorough)
        elif backend == 'local' and _reads_label_maps(source):
            images[source.split] |= yield from check_label_maps(source, ignored, thorough)
        else:
            yield Finding(
                WARNING,
                f'{type(source.dataset).__name__} with the backend {backend!r}: its files are not '
                'checked',
                source.place,
                'look at samples with tools/browse_data.py',
            )
        yield from _check_evaluator(cfg, source)
    for split, paths in images.items():
        shared = sorted(paths & images.get('train', set())) if split != 'train' else ()
        if shared:
            kind = Kind(
                WARNING,
                f'images of the {split} data that are train data too',
                'evaluate on images that no training sees',
            )
            yield several(kind, f'{split}_dataloader', shared)


def _reads_coco(source: Source) -> bool:
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


def _reads_label_maps(source: Source) -> bool:
    """Whether a dataset lists its files as mmseg's BaseSegDataset does."""
    try:
        from mmseg.datasets import BaseSegDataset
    except ImportError:
        return False
    own = type(source.dataset)
    return issubclass(own, BaseSegDataset) and own.load_data_list is BaseSegDataset.load_data_list


def _check_evaluator(cfg: Config, source: Source) -> Iterator[Finding]:
    """Metrics read annotations on their own, which have to be those of the data."""
    evaluators = cfg.get(f'{source.split}_evaluator') or ()
    for evaluator in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
        file, own = evaluator.get('ann_file'), source.dataset.ann_file
        if file and os.path.abspath(file) != os.path.abspath(own):
            yield Finding(
                WARNING,
                f'metrics that read {file!r}, for data from {own!r}',
                f'{source.split}_evaluator',
                'set its ann_file to that of the dataset, with the data_root',
            )
