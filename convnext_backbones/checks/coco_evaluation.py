"""Check annotation files as the evaluation reads them.

A dataset skips annotations that it cannot use. The evaluator opens the file again, and meets all of
them: it fails after the first epoch, or counts something else, without a word about the annotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mmengine.config import Config

from .coco import read_lists
from .findings import ERROR, WARNING, Finding, Kind, group

# What reads a file: mmdet's metric on pycocotools, and ours on faster-coco-eval.
METRICS = ('CocoMetric', 'FastCocoMetric')
FAST = 'FastCocoMetric'
# Numbers of the first polygon with which pycocotools takes a segmentation for a box, or refuses it.
SHORTEST = 5
NO_CROWD = Kind(
    ERROR, 'annotations without a number as iscrowd, at which the evaluation fails', 'write 0 or 1'
)
TEXT_AS_ID = Kind(
    ERROR, 'annotations whose id is text, at which the evaluation fails', 'number them from 1'
)
ZERO_AS_ID = Kind(
    WARNING,
    'annotations with the id 0: what is found of them counts as missed',
    'number the annotations from 1',
)
UNREADABLE_MASK = Kind(
    ERROR,
    'segmentations at which the evaluation of masks fails',
    'write polygons of at least three points, the first one above all, or dict(size=..., '
    'counts=...), or delete these annotations',
)
SIZE_OF_HALVES = Kind(
    ERROR,
    'images whose width or height is no integer, at which the fast evaluation of masks fails',
    'write integers',
)


@dataclass(frozen=True)
class Evaluator:
    """A metric that reads an annotation file.

    Attributes:
        path: The file.
        entry: The entry of the config.
        masks: Whether it evaluates masks.
        fast: Whether it runs on faster-coco-eval, which reads some things otherwise.
    """

    path: str
    entry: str
    masks: bool
    fast: bool


def check_evaluation(cfg: Config, split: str) -> Iterator[Finding]:
    """Check the annotation files that the metrics of a split read, for what they fail at.

    Args:
        cfg: The config.
        split: ``val`` or ``test``.
    """
    for evaluator in _evaluators(cfg, split):
        try:
            content = read_lists(evaluator.path)
        except (OSError, ValueError):  # the check of the dataset says so
            continue
        problems = chain(
            _image_problems(content['images'], evaluator),
            _annotation_problems(content['annotations'], evaluator),
        )
        yield from group(problems, evaluator.path, evaluator.entry)


def _evaluators(cfg: Config, split: str) -> Iterator[Evaluator]:
    """Iterate over the metrics of a split that read an annotation file of their own."""
    entry = f'{split}_evaluator'
    metrics: Any = cfg.get(entry) or ()
    for metric in [metrics] if isinstance(metrics, Mapping) else metrics:
        kind, path = metric.get('type'), metric.get('ann_file')
        name = kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')
        kinds = metric.get('metric', 'bbox')
        masks = 'segm' in ([kinds] if isinstance(kinds, str) else kinds)
        if name in METRICS and path:
            yield Evaluator(path, entry, masks, name == FAST)


def _image_problems(images: Iterable[dict], evaluator: Evaluator) -> Iterator[tuple[Kind, str]]:
    for image in images if evaluator.fast and evaluator.masks else ():
        if any(isinstance(image.get(side), float) for side in ('width', 'height')):
            yield SIZE_OF_HALVES, f'image {image.get("id")}'


def _annotation_problems(
    annotations: Iterable[dict], evaluator: Evaluator
) -> Iterator[tuple[Kind, str]]:
    for annotation in annotations:
        number, crowd = annotation.get('id'), annotation.get('iscrowd')
        place = f'annotation {number}'
        absent = 'iscrowd' not in annotation
        if (absent and not evaluator.fast) or not (absent or isinstance(crowd, (int, float))):
            yield NO_CROWD, place
        if isinstance(number, str) and not evaluator.fast:
            yield TEXT_AS_ID, place
        elif number == 0:
            yield ZERO_AS_ID, place
        if evaluator.masks and not _is_readable(annotation.get('segmentation'), evaluator.fast):
            yield UNREADABLE_MASK, place


def _is_readable(segmentation: object, fast: bool) -> bool:
    """Whether the evaluation of masks can read a segmentation, rightly or not."""
    if isinstance(segmentation, dict):
        counts = segmentation.get('counts')
        whole = not isinstance(counts, list) or all(isinstance(run, int) for run in counts)
        return {'size', 'counts'} <= segmentation.keys() and (whole or not fast)
    if not isinstance(segmentation, list):
        return False
    numbers = all(
        isinstance(polygon, list) and all(isinstance(number, (int, float)) for number in polygon)
        for polygon in segmentation
    )
    # faster-coco-eval takes short polygons for masks of nothing.
    return numbers and (fast or (bool(segmentation) and len(segmentation[0]) >= SHORTEST))
