"""Where label maps have their boundaries.

Boundary IoU is that of Cheng, Girshick, Dollar, Berg and Kirillov, "Boundary IoU: Improving
Object-Centric Image Segmentation Evaluation" (CVPR 2021): the IoU of those pixels of a mask that
are at most a distance ``d`` away from its outline. The distance is a share of the image diagonal.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

DILATION_RATIO = 0.02  # of the image diagonal, the paper's choice
# Upper ends, in pixels, of the groups of distances to a boundary; the last group has no end.
DISTANCES = (1, 2, 4, 8, 16, 32, 64)


def boundary_width(height: int, width: int, ratio: float = DILATION_RATIO) -> int:
    """Return the distance ``d`` for images of a size, in pixels and at least 1."""
    return max(1, round(ratio * math.hypot(height, width)))


def boundary_region(labels: np.ndarray, width: int) -> np.ndarray:
    """Return which pixels belong to the boundary region of the mask of their own label.

    The paper erodes the mask of each class with a 3 x 3 square ``width`` times, beyond the image
    there being nothing. A pixel is eroded if the square of ``2 * width + 1`` pixels around it has
    another label or leaves the image, which a minimum and a maximum tell for all classes at once.

    Args:
        labels: (H, W), uint8 or uint16.
        width: The distance ``d`` in pixels.

    Returns:
        (H, W), bool.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    region = cv2.erode(labels, square) != cv2.dilate(labels, square)
    region[:width] = region[-width:] = True
    region[:, :width] = region[:, -width:] = True
    return region


def boundary_areas(
    truth: np.ndarray, predicted: np.ndarray, labeled: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the intersections and unions of the boundary regions of an image, by class.

    A prediction takes over the unlabeled pixels of the truth, so both have the boundaries to these,
    and they are not counted.

    Args:
        truth: True labels, (H, W), uint8 or uint16.
        predicted: Predicted labels, of the same shape and type.
        labeled: Which pixels are evaluated, (H, W), bool.
        classes: Number of classes; other labels are not counted.

    Returns:
        Two arrays of pixels, (classes,), int64.
    """
    width = boundary_width(*truth.shape)
    true_region = boundary_region(truth, width) & labeled
    predicted = np.where(labeled, predicted, truth)
    predicted_region = boundary_region(predicted, width) & labeled
    both = true_region & predicted_region & (truth == predicted)
    intersection = count_labels(truth[both], classes)
    union = (
        count_labels(truth[true_region], classes)
        + count_labels(predicted[predicted_region], classes)
        - intersection
    )
    return intersection, union


def count_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return how often each of the labels 0 to ``classes - 1`` occurs, (classes,), int64."""
    return np.bincount(labels.ravel(), minlength=classes)[:classes]


def distance_group(labels: np.ndarray) -> np.ndarray:
    """Return for each pixel the group of :data:`DISTANCES` of its distance to a boundary.

    The pixels on both sides of a boundary have the distance 1. Unlabeled areas have boundaries too,
    because some data sets leave the outlines of objects unlabeled. The edge of the image is none.

    Args:
        labels: True labels, (H, W), uint8 or uint16.

    Returns:
        (H, W), uint8: the index of the first distance that is not exceeded, or
        ``len(DISTANCES)`` if all are, or if the image has no boundary.
    """
    inside = np.ones(labels.shape, np.uint8)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    inside[:, 1:][across] = inside[:, :-1][across] = 0
    inside[1:][down] = inside[:-1][down] = 0
    if inside.all():
        return np.full(labels.shape, len(DISTANCES), np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) + 1
    groups = np.zeros(labels.shape, np.uint8)
    for end in DISTANCES:  # ten times as fast as np.digitize
        groups += distance > end
    return groups
