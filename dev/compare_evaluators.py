"""Compare pycocotools with faster-coco-eval on generated detections: numbers and times.

Prints the twelve COCO numbers of boxes and of masks as each evaluator computes them, and the median
time of each over several rounds, in which they take turns. The detections resemble those of a
trained detector: found objects with inexact outlines, duplicates, confused classes, false alarms
and ties between scores, with objects of every size and crowds.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import statistics
import sys
import time

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnext_backbones.evaluation.metrics import fast_evaluator

SIZES = ((480, 640), (640, 480), (427, 640), (375, 500))  # height, width
CLASSES = 80
OBJECTS_PER_IMAGE = 7.3  # as in COCO
CROWDS = 0.01  # of the objects
FOUND = 0.85  # of the objects
DOUBLES = 1.6  # further detections of a found object
FALSE_ALARMS = 16  # per image
CROWDED = 100  # one in this many images has more objects of a class than the 100 that AP counts
OBJECTS_IF_CROWDED = 110
MAX_DETS = [100, 300, 1000]  # as in mmdet's CocoMetric
NAMES = ['AP', 'AP50', 'AP75', 'AP small', 'AP medium', 'AP large']
NAMES += ['AR@100', 'AR@300', 'AR@1000', 'AR small', 'AR medium', 'AR large']


class DetectionMaker:
    """Generator of ground truth and detections in COCO's format.

    Args:
        images: Number of images.
        seed: Seed of the random numbers.

    Attributes:
        ground_truth: The content of an annotation file.
        detections: The content of a result file.
    """

    def __init__(self, images: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        # As in COCO, a few classes make up most of the objects.
        frequency = 1 / np.arange(1, CLASSES + 1)
        self.frequency = frequency / frequency.sum()
        self.ground_truth = dict(
            images=[],
            annotations=[],
            categories=[dict(id=i + 1, name=f'class {i + 1}') for i in range(CLASSES)],
        )
        self.detections: list[dict] = []
        for image_id in range(1, images + 1):
            self._add_image(image_id)

    def _add_image(self, image_id: int) -> None:
        shape = SIZES[self.rng.integers(len(SIZES))]
        image = dict(id=image_id, height=shape[0], width=shape[1], file_name=f'{image_id:06d}.jpg')
        self.ground_truth['images'].append(image)
        crowded = image_id % CROWDED == 1
        for _ in range(self.rng.poisson(OBJECTS_IF_CROWDED if crowded else OBJECTS_PER_IMAGE)):
            outline = self._outline(shape)
            category = 1 if crowded else self._category()
            if self.rng.random() < CROWDS:
                outlines = [outline, *(_moved(outline, self.rng, 1.0) for _ in range(4))]
                self._annotate(image_id, category, _encode(outlines, shape), iscrowd=1)
            else:
                self._annotate(image_id, category, _encode([outline], shape), iscrowd=0)
            if self.rng.random() < FOUND:
                for double in range(1 + self.rng.poisson(DOUBLES)):
                    blur = self.rng.exponential(0.06 + 0.1 * double)
                    confused = self.rng.random() < 0.1
                    self._detect(
                        image_id,
                        self._category() if confused else category,
                        _encode([_moved(outline, self.rng, blur)], shape),
                        score=0.97 - blur - 0.25 * double + self.rng.normal(0, 0.1),
                    )
        for _ in range(self.rng.poisson(FALSE_ALARMS)):
            mask = _encode([self._outline(shape)], shape)
            self._detect(image_id, self._category(), mask, score=self.rng.beta(1.2, 6))

    def _category(self) -> int:
        return int(self.rng.choice(CLASSES, p=self.frequency)) + 1

    def _outline(self, shape: tuple[int, int]) -> np.ndarray:
        """Return a dented ellipse in the image: (points, 2), x and y in pixels."""
        radius = np.exp(self.rng.uniform(np.log(4), np.log(min(shape) / 2)))
        angles = np.linspace(0, 2 * np.pi, self.rng.integers(8, 24), endpoint=False)
        radii = radius * self.rng.uniform(0.7, 1, len(angles))
        stretch = np.exp(self.rng.normal(0, 0.3))
        center = self.rng.uniform((0, 0), shape[::-1])
        unit = np.stack([np.cos(angles) * stretch, np.sin(angles) / stretch], axis=1)
        return center + radii[:, None] * unit

    def _annotate(self, image_id: int, category: int, mask: dict, iscrowd: int) -> None:
        annotations = self.ground_truth['annotations']
        area = float(mask_utils.area(mask))
        if area:
            ids = dict(id=len(annotations) + 1, image_id=image_id, category_id=category)
            annotations.append(ids | _box_and_mask(mask) | dict(area=area, iscrowd=iscrowd))

    def _detect(self, image_id: int, category: int, mask: dict, score: float) -> None:
        # Rounding to three digits makes ties, which both evaluators must break in the same way.
        score = round(float(np.clip(score, 0.001, 0.999)), 3)
        if mask_utils.area(mask):
            ids = dict(image_id=image_id, category_id=category, score=score)
            self.detections.append(ids | _box_and_mask(mask))


def _moved(outline: np.ndarray, rng: np.random.Generator, blur: float) -> np.ndarray:
    """Return the outline, shifted and scaled by about ``blur`` of its size."""
    center, extent = outline.mean(0), np.ptp(outline, axis=0)
    scale = np.exp(rng.normal(0, blur, 2))
    return center + (outline - center) * scale + rng.normal(0, blur, 2) * extent


def _encode(outlines: list[np.ndarray], shape: tuple[int, int]) -> dict:
    """Return the run-length encoded union of outlines; ``shape`` is (height, width)."""
    limit = np.array(shape[::-1])
    polygons = [np.clip(outline, 0, limit).reshape(-1).tolist() for outline in outlines]
    return mask_utils.merge(mask_utils.frPyObjects(polygons, *shape))


def _box_and_mask(mask: dict) -> dict:
    segmentation = dict(size=mask['size'], counts=mask['counts'].decode())
    return dict(bbox=mask_utils.toBbox(mask).tolist(), segmentation=segmentation)


def evaluate(
    evaluator: type, ground_truth: dict, detections: list[dict], task: str
) -> tuple[np.ndarray, float]:
    """Return the twelve COCO numbers, and the seconds that the evaluator took for them.

    Args:
        evaluator: ``COCOeval`` of pycocotools, or a class with the same interface.
        ground_truth: The content of an annotation file.
        detections: The content of a result file.
        task: ``bbox`` or ``segm``.
    """
    # mmdet omits the boxes when it evaluates masks, so that areas are those of the masks.
    omitted = 'segmentation' if task == 'bbox' else 'bbox'
    results = [{k: v for k, v in result.items() if k != omitted} for result in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(ground_truth)  # evaluators modify it
        coco.createIndex()
        evaluation = evaluator(coco, coco.loadRes(results), task)
        evaluation.params.maxDets = list(MAX_DETS)
        start = time.perf_counter()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--images', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args(argv)
    try:
        fast = fast_evaluator()
        for name in ('images', 'rounds'):
            if getattr(args, name) < 1:
                raise ValueError(f'expected --{name} to be at least 1, got {getattr(args, name)}')
    except ValueError as error:
        sys.exit(f'compare_evaluators: {error}')
    made = DetectionMaker(args.images, args.seed)
    objects, detections = len(made.ground_truth['annotations']), len(made.detections)
    print(f'{args.images} images, {objects} objects, {detections} detections with masks')
    for task in ('bbox', 'segm'):
        times = []
        for _ in range(args.rounds):
            reference, slow = evaluate(COCOeval, made.ground_truth, made.detections, task)
            numbers, quick = evaluate(fast, made.ground_truth, made.detections, task)
            times.append((slow, quick, slow / quick))
        slow, quick, ratio = map(statistics.median, zip(*times, strict=True))
        print(f'\n{task:<10} pycocotools  faster-coco-eval')
        for name, a, b in zip(NAMES, reference, numbers, strict=True):
            print(f'{name:<10} {a:11.6f}  {b:16.6f}')
        print(f'largest difference: {np.abs(reference - numbers).max():.1e}')
        print(
            f'time: pycocotools {slow:.2f} s, faster-coco-eval {quick:.2f} s, ratio {ratio:.1f} '
            f'(medians of {args.rounds})'
        )


if __name__ == '__main__':
    main()
