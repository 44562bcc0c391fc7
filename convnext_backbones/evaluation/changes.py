"""Compare two files of predictions, image by image: the numbers and the page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from ..analysis.detections import SCORE_THRESHOLD
from ..io.files import write_json
from ..io.mmengine_patches import read_files_safely
from ..io.wording import first_names
from .predictions import check_predictions, read_predictions

SHOWN_IMAGES = 5  # in the summary


@dataclass(frozen=True)
class Comparison:
    """What two files of predictions have in common.

    Attributes:
        paths: The files A and B.
        classes: Names of the classes, by label.
        records: The predictions of A and of B, of the same images in the same order.
        cfg: The config with the test data; None if only predictions are compared.
        dataset: The test data; None likewise.
    """

    paths: tuple[str, str]
    classes: tuple[str, ...]
    records: tuple[list[dict], list[dict]]
    cfg: Config | None = None
    dataset: BaseDataset | None = None

    @property
    def detections(self) -> bool:
        """Whether the predictions are boxes, and not label maps."""
        return 'bboxes' in self.records[0][0]

    def origin(self) -> dict[str, object]:
        """Return what the page says about the files."""
        names: dict[str, object] = dict(zip('AB', self.paths, strict=True))
        return names if self.cfg is None else {**names, 'config': self.cfg.filename}

    def info(self, index: int) -> dict[str, Any] | None:
        """Return what the test data know about an image; None without test data."""
        return None if self.dataset is None else self.dataset.get_data_info(index)


@dataclass(frozen=True)
class Result:
    """What a comparison found.

    Attributes:
        summary: The main numbers by name.
        changed: Names of the changed images, the most changed first.
        numbers: All numbers, ready for JSON.
    """

    summary: dict[str, object]
    changed: Sequence[str]
    numbers: dict[str, Any]


def compare_predictions(
    path_a: str,
    path_b: str,
    out: Path,
    cfg: Config | None = None,
    json_path: Path | None = None,
    threshold: float = SCORE_THRESHOLD,
) -> list[str]:
    """Write what changed between two files of predictions.

    Args:
        path_a: The first file, as ``tools/test.py --dump`` writes it.
        path_b: The second file.
        out: The HTML page to write.
        cfg: A config with the test data, for the truth and the images.
        json_path: A file for the numbers.
        threshold: Score from which a detection counts.

    Returns:
        The lines of a summary.

    Raises:
        FileNotFoundError: A file of predictions, or the annotations, do not exist.
        ValueError: A file is damaged or is not a file of predictions; or both are of different
            kinds, classes or images, or of others than the config's test data.
        WriteError: The disk is full, or permission is missing.
    """
    comparison = load_comparison(path_a, path_b, cfg)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    if comparison.detections:
        from .detection_changes import write_detection_changes

        result = write_detection_changes(comparison, out, threshold)
    else:
        from .segmentation_changes import write_segmentation_changes

        result = write_segmentation_changes(comparison, out)
    if json_path is not None:
        json_path.absolute().parent.mkdir(parents=True, exist_ok=True)
        files = dict(a=path_a, b=path_b)
        write_json(json_path, {**files, **result.numbers})
    lines = [f'{name}: {value}' for name, value in result.summary.items()]
    if not result.changed:
        return ['Nothing changed: A and B are the same.', *lines]
    names = first_names(result.changed, SHOWN_IMAGES)
    return [*lines, f'most changed: {names}']


def load_comparison(path_a: str, path_b: str, cfg: Config | None = None) -> Comparison:
    """Read two files of predictions and check that they can be compared.

    Args:
        path_a: The first file.
        path_b: The second file; its images are brought into the order of the first.
        cfg: A config with the test data.

    Raises:
        FileNotFoundError: A file of predictions, or the annotations, do not exist.
        ValueError: As in :func:`compare_predictions`.
    """
    a, b = read_predictions(path_a), read_predictions(path_b)
    _check_same_kind(path_a, a['images'], path_b, b['images'])
    _check_same_classes(path_a, a['classes'], path_b, b['classes'])
    images_b = _in_order(path_a, a['images'], path_b, b['images'])
    comparison = Comparison((path_a, path_b), a['classes'], (a['images'], images_b))
    if cfg is None:
        return comparison
    scope = 'mmdet' if comparison.detections else 'mmseg'
    if cfg.default_scope != scope:
        raise ValueError(
            f'expected a config of {scope}, which the predictions come from, got one of '
            f'{cfg.default_scope}: {cfg.filename!r}'
        )
    init_default_scope(cfg.default_scope)
    read_files_safely()  # datasets read annotations through mmengine
    with redirect_stdout(sys.stderr):  # pycocotools prints what it reads
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    check_predictions(path_a, a, dataset)
    check_predictions(path_b, {**b, 'images': images_b}, dataset)
    return Comparison((path_a, path_b), a['classes'], (a['images'], images_b), cfg, dataset)


def _check_same_kind(path_a: str, a: Sequence[dict], path_b: str, b: Sequence[dict]) -> None:
    for path, images in ((path_a, a), (path_b, b)):
        if not images:
            raise ValueError(f'expected predictions of at least one image, got none in {path!r}')
    kinds = ['detections' if 'bboxes' in images[0] else 'label maps' for images in (a, b)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f'expected predictions of one kind, got {kinds[0]} in {path_a!r} and {kinds[1]} in '
            f'{path_b!r}'
        )


def _check_same_classes(path_a: str, a: Sequence[str], path_b: str, b: Sequence[str]) -> None:
    if tuple(a) == tuple(b):
        return
    only = [[name for name in own if name not in other] for own, other in ((a, b), (b, a))]
    difference = 'the same names in another order'
    if any(only):
        difference = f'only in the first: {first_names(only[0])}; only in the second: '
        difference += first_names(only[1])
    raise ValueError(
        f'expected predictions of the same classes, got {len(a)} in {path_a!r} and {len(b)} in '
        f'{path_b!r} ({difference})'
    )


def _in_order(path_a: str, a: Sequence[dict], path_b: str, b: Sequence[dict]) -> list[dict]:
    """Return the images of B in the order of A.

    Raises:
        ValueError: They are others.
    """
    names_a, names_b = [one['name'] for one in a], [one['name'] for one in b]
    if names_a == names_b:
        return list(b)
    by_name = {one['name']: one for one in b}
    if len(by_name) == len(b) == len(a) == len(set(names_a)) and by_name.keys() == set(names_a):
        return [by_name[name] for name in names_a]
    only_a = [name for name in names_a if name not in by_name]
    only_b = [name for name in by_name if name not in set(names_a)]
    raise ValueError(
        f'expected predictions of the same images, got {len(a)} in {path_a!r} and {len(b)} in '
        f'{path_b!r} (only in the first: {first_names(only_a)}; only in the second: '
        f'{first_names(only_b)})'
    )
