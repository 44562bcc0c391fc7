"""Images with objects and detections, written by hand or generated."""

import numpy as np

from convnext_backbones.analysis.detection_data import DetectionImage, Found, Truth
from dev.compare_evaluators import DetectionMaker


def image(truth=(), found=(), name='image', crowd=(), size=(100, 200)) -> DetectionImage:
    """An image from rows.

    Args:
        truth: Objects: label, x, y, width, height.
        found: Detections: label, x, y, width, height, score.
        name: The name of the image.
        crowd: Indices of the objects that are crowds.
        size: Height and width.
    """
    truth = np.array(truth, float).reshape(-1, 5)
    found = np.array(found, float).reshape(-1, 6)
    return DetectionImage(
        name=name,
        path=f'images/{name}',
        size=size,
        truth=Truth(
            boxes=truth[:, 1:],
            labels=truth[:, 0].astype(int),
            areas=truth[:, 3] * truth[:, 4],
            crowd=np.isin(np.arange(len(truth)), crowd),
        ),
        found=Found(boxes=found[:, 1:5], labels=found[:, 0].astype(int), scores=found[:, 5]),
    )


def made_images(made: DetectionMaker) -> list[DetectionImage]:
    """What dev/compare_evaluators.py generates, with masks."""
    truth = {entry['id']: [] for entry in made.ground_truth['images']}
    found = {name: [] for name in truth}
    for annotation in made.ground_truth['annotations']:
        truth[annotation['image_id']].append(annotation)
    for detection in made.detections:
        found[detection['image_id']].append(detection)

    def column(entries, key, kind):
        return np.array([entry[key] for entry in entries], kind)

    images = []
    for entry in made.ground_truth['images']:
        there, seen = truth[entry['id']], found[entry['id']]
        images.append(
            DetectionImage(
                name=entry['file_name'],
                path='',
                size=(entry['height'], entry['width']),
                truth=Truth(
                    boxes=column(there, 'bbox', float).reshape(-1, 4),
                    labels=column(there, 'category_id', int) - 1,
                    areas=column(there, 'area', float),
                    crowd=column(there, 'iscrowd', bool),
                    masks=[annotation['segmentation'] for annotation in there],
                ),
                found=Found(
                    boxes=column(seen, 'bbox', float).reshape(-1, 4),
                    labels=column(seen, 'category_id', int) - 1,
                    scores=column(seen, 'score', float),
                    masks=[detection['segmentation'] for detection in seen],
                ),
            )
        )
    return images
