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
HIGHEST_ID = 2**53  # up to which every integer is a double, in which ids are kept
NO_CROWD = Kind(
    ERROR, 'annotations without a number as iscrowd, at which the evaluation fails', 'write 0 or 1'
)
TEXT_AS_ID = Kind(
    ERROR,
    'annotations whose id is text, at which the evaluation fails, or misses what is found of them',
    'number them from 1',
)
TEXT_AS_REFERENCE = Kind(
    ERROR,
    'images and categories whose id is text, at which the fast evaluation fails',
    'number them, and write the numbers as image_id and category_id too',
)
ZERO_AS_ID = Kind(
    WARNING,
    'annotations with the id 0: what is found of them counts as missed',
    'number the annotations from 1',
)
ID_OUT_OF_RANGE = Kind(
    WARNING,
    'annotations with an id below 0 or of more than 15 digits: what the fast evaluation finds of '
    'them counts as missed',
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
        place: The metric in that entry, which may be a list.
        masks: Whether it evaluates masks.
        fast: Whether it runs on faster-coco-eval, which reads some things otherwise.
    """

    path: str
    entry: str
    place: str
    masks: bool
    fast: bool


def check_evaluation(cfg: Config, split: str) -> Iterator[Finding]:
    """Check the annotation files that the metrics of a split read, for what they fail at.

    Args:
        cfg: The config.
        split: ``val`` or ``test``.
    """
    for evaluator in list_evaluators(cfg, split):
        try:
            content = read_lists(evaluator.path)
        except (OSError, ValueError):  # the check of the dataset says so
            continue
        problems = chain(
            _image_problems(content, evaluator),
            _annotation_problems(content['annotations'], evaluator),
        )
        yield from group(problems, evaluator.path, evaluator.entry)


def list_evaluators(cfg: Config, split: str) -> Iterator[Evaluator]:
    """Iterate over the metrics of a split that read an annotation file of their own."""
    entry = f'{split}_evaluator'
    metrics: Any = cfg.get(entry) or ()
    alone = isinstance(metrics, Mapping)
    for index, metric in enumerate([metrics] if alone else metrics):
        kind, path = metric.get('type'), metric.get('ann_file')
        name = kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')
        kinds = metric.get('metric', 'bbox')
        masks = 'segm' in ([kinds] if isinstance(kinds, str) else kinds)
        if name in METRICS and path:
            place = entry if alone else f'{entry}.{index}'
            yield Evaluator(path, entry, place, masks, name == FAST)


def _image_problems(
    content: Mapping[str, list[dict]], evaluator: Evaluator
) -> Iterator[tuple[Kind, str]]:
    if not evaluator.fast:
        return
    for image in content['images']:
        place = f'image {image.get("id")}'
        if isinstance(image.get('id'), str):
            yield TEXT_AS_REFERENCE, place
        if evaluator.masks and any(isinstance(image.get(x), float) for x in ('width', 'height')):
            yield SIZE_OF_HALVES, place
    for category in content['categories']:
        if isinstance(category['id'], str):
            yield TEXT_AS_REFERENCE, f'category {category["id"]}'


def _annotation_problems(
    annotations: Iterable[dict], evaluator: Evaluator
) -> Iterator[tuple[Kind, str]]:
    for annotation in annotations:
        number, crowd = annotation.get('id'), annotation.get('iscrowd')
        place = f'annotation {number}'
        absent = 'iscrowd' not in annotation
        if (absent and not evaluator.fast) or not (absent or isinstance(crowd, (int, float))):
            yield NO_CROWD, place
        if isinstance(number, str):
            yield TEXT_AS_ID, place
        elif number == 0:
            yield ZERO_AS_ID, place
        elif evaluator.fast and isinstance(number, int) and not 0 < number <= HIGHEST_ID:
            yield ID_OUT_OF_RANGE, place
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
