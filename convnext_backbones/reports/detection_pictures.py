"""Pictures of images with boxes, masks, classes and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as mask_utils

from ..analysis.detection_data import DetectionImage
from ..analysis.detection_matches import CORRECT, IGNORED, KIND_NAMES
from ..analysis.detections import DetectionAnalysis
from ..io.images import UnreadableFileError
from .page import Card
from .segmentation_pictures import Legend

WIDTHS, TALLEST = (400, 480), 720  # of a picture, in pixels
FONT_SIZE, LINE = 14, 2  # in pixels
DASH = 5  # length of the dashes and gaps of boxes that are wrong, in pixels
MOST_LABELS = 15  # in a picture with more boxes, names would hide the image
MASK_OPACITY = 0.35


@dataclass(frozen=True)
class Box:
    """A box to draw.

    Attributes:
        box: x, y, width and height in pixels of the image.
        label: Index of the class.
        caption: The text at its corner.
        wrong: Whether it is dashed.
        mask: COCO's run-length encoding of the object; None if there is none.
    """

    box: Sequence[float]
    label: int
    caption: str
    wrong: bool
    mask: dict[str, Any] | None = None


def make_card(
    analysis: DetectionAnalysis,
    index: int,
    group: str,
    pictures: Callable[[int], np.ndarray],
    legend: Legend,
) -> Card:
    """Return a card with the truth and the detections of an image.

    Args:
        analysis: The analysis.
        index: Index of the image.
        group: Why the image is shown.
        pictures: Returns the (H, W, 3) uint8 RGB image of an index, or raises UnreadableFileError.
        legend: The colors of the classes.
    """
    image = analysis.images[index]
    truth, found = boxes_of_truth(analysis, index), boxes_found(analysis, index)
    labels = sorted({box.label for box in (*truth, *found)})
    try:
        pixels = pictures(index)
    except UnreadableFileError as error:
        shown, lines = [], [str(error)]
    else:
        captions = (f'truth: {len(truth)} objects', f'found: {len(found)} detections')
        shown = [
            (caption, draw_boxes(pixels, image, boxes, legend))
            for caption, boxes in zip(captions, (truth, found), strict=True)
        ]
        lines = []
    return Card(
        title=image.name,
        pictures=shown,
        lines=[*_facts(analysis, index), *lines],
        classes=[analysis.classes[label] for label in labels],
        group=group,
    )


def _facts(analysis: DetectionAnalysis, index: int) -> list[str]:
    score, matches = analysis.image_scores[index], analysis.matches
    kinds = matches.kind[(matches.image == index) & (matches.score >= analysis.threshold)]
    f1 = '–' if score.f1 is None else f'{score.f1:.2f}'
    lines = [f'F1 {f1}: {score.correct} correct, {score.false} false, {score.missed} missed']
    errors = [
        f'{(kinds == kind).sum()} {name}'
        for kind, name in enumerate(KIND_NAMES)
        if kind != CORRECT and (kinds == kind).any()
    ]
    return lines + ([f'not correct: {", ".join(errors)}'] if errors else [])


def boxes_of_truth(analysis: DetectionAnalysis, index: int) -> list[Box]:
    """Return the objects of an image; those that are missed are dashed.

    The only class has no name in captions.
    """
    truth = analysis.images[index].truth
    missed = analysis.matches.missed(analysis.threshold)[analysis.matches.truth_image == index]
    boxes = []
    for j, label in enumerate(truth.labels):
        words = [_name(analysis, label), '(crowd)' if truth.crowd[j] else '']
        mask = truth.masks[j] if truth.masks else None
        caption = ' '.join(filter(None, words))
        boxes.append(Box(truth.boxes[j], int(label), caption, bool(missed[j]), mask))
    return boxes


def boxes_found(analysis: DetectionAnalysis, index: int) -> list[Box]:
    """Return the detections above the score threshold, the highest score last; errors are dashed.

    Detections that are ignored because they lie in a crowd are not dashed.
    """
    found = analysis.images[index].found
    kinds = analysis.matches.kind[analysis.matches.image == index]
    boxes = []
    for j in np.argsort(found.scores, kind='stable'):
        if found.scores[j] >= analysis.threshold:
            label, mask = int(found.labels[j]), found.masks[j] if found.masks else None
            caption = f'{_name(analysis, label)} {found.scores[j]:.2f}'.strip()
            wrong = kinds[j] not in (CORRECT, IGNORED)
            boxes.append(Box(found.boxes[j], label, caption, wrong, mask))
    return boxes


def _name(analysis: DetectionAnalysis, label: int) -> str:
    return analysis.classes[label] if len(analysis.classes) > 1 else ''


def draw_boxes(
    pixels: np.ndarray, image: DetectionImage, boxes: Sequence[Box], legend: Legend
) -> np.ndarray:
    """Return a small picture of an image with boxes.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        image: The image, whose size is that of the boxes.
        boxes: The boxes, drawn in order.
        legend: The colors of the classes.

    Returns:
        (h, w, 3) uint8, RGB, at most 480 pixels wide.
    """
    height, width = pixels.shape[:2]
    scale = min(float(np.clip(width, *WIDTHS)) / width, TALLEST / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = cv2.resize(pixels, size, interpolation=method)
    for box in boxes:
        if box.mask is not None:
            _blend(canvas, box.mask, legend.colors[box.label])
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    ratio = np.array([size[0] / image.size[1], size[1] / image.size[0]])
    for box in boxes:
        x, y, w, h = map(float, np.asarray(box.box) * np.tile(ratio, 2))
        color = tuple(legend.colors[box.label].tolist())
        _outline(draw, (x, y, x + w, y + h), color, box.wrong)
        if box.caption and len(boxes) <= MOST_LABELS:
            _write(draw, (x, y), size, box.caption, color)
    return np.asarray(picture)


def _blend(canvas: np.ndarray, mask: dict[str, Any], color: np.ndarray) -> None:
    height, width = canvas.shape[:2]
    inside = cv2.resize(mask_utils.decode(mask), (width, height), interpolation=cv2.INTER_NEAREST)
    chosen = inside.astype(bool)
    canvas[chosen] = canvas[chosen] * (1 - MASK_OPACITY) + color * MASK_OPACITY


def _outline(
    draw: ImageDraw.ImageDraw,
    corners: tuple[float, float, float, float],
    color: tuple[int, ...],
    dashed: bool,
) -> None:
    # A little outside of the picture is as good as far away.
    limit = max(draw.im.size) + 2 * DASH
    numbers = np.nan_to_num(corners, nan=0, posinf=limit, neginf=-limit)
    x1, y1, x2, y2 = numbers.clip(-limit, limit).tolist()
    if not dashed:
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=LINE)
        return
    for start, end, horizontal in (
        ((x1, y1), x2, True),
        ((x1, y2), x2, True),
        ((x1, y1), y2, False),
        ((x2, y1), y2, False),
    ):
        x, y = start
        for place in np.arange(x if horizontal else y, end, 2 * DASH):
            stop = min(place + DASH, end)
            line = (place, y, stop, y) if horizontal else (x, place, x, stop)
            draw.line(line, fill=color, width=LINE)


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    size: tuple[int, int],
    caption: str,
    color: tuple[int, ...],
) -> None:
    """Write a caption above a corner, or inside of the picture where there is no place above."""
    left, top, right, bottom = draw.textbbox((0, 0), caption, font=_font())
    width, height = right + 4, bottom + 2
    x = max(0.0, min(corner[0], size[0] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    y = max(0.0, min(y, size[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=color)
    # The weights of the luminance.
    bright = np.dot(color, (0.299, 0.587, 0.114)) > 140
    draw.text((x + 2, y), caption, fill='black' if bright else 'white', font=_font())


@cache
def _font() -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib brings along, which has most alphabets."""
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf'), FONT_SIZE
    )
