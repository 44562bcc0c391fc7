"""Pictures of label maps: in the colors of the classes, and where two of them differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from markupsafe import Markup
from matplotlib import colormaps

from ..analysis.segmentation_choice import largest_confusions
from ..analysis.segmentations import ImageScore
from .page import Card

WIDEST, TALLEST = 480, 720  # of a picture, in pixels
UNLABELED_COLOR = (255, 255, 255)
PALE = 0.25  # share of the image's contrast that is left where a prediction is right
CONFUSIONS_SHOWN = 3  # on a card
CLASSES_SHOWN = 12  # in the legend of a card


@dataclass(frozen=True)
class Legend:
    """Names and colors of the classes.

    Attributes:
        classes: The names.
        colors: (K + 1, 3), uint8, RGB by label; the last is that of labels that are no class.
    """

    classes: tuple[str, ...]
    colors: np.ndarray

    def color(self, label: int) -> str:
        """Return a color as CSS writes it, such as ``#ff0000``."""
        return '#{:02x}{:02x}{:02x}'.format(*self.colors[label].tolist())

    def swatch(self, label: int) -> Markup:
        """Return a small square in the color of a class, for tables and lines."""
        return Markup(
            '<svg width="12" height="12" role="img" aria-label="{0}"><rect width="12" height="12" '
            'fill="{0}" stroke="currentColor"/></svg>'
        ).format(self.color(label))

    def named(self, label: int) -> Markup:
        """Return the swatch and the name of a class."""
        named = Markup('<span class="whole">{} {}</span>')
        return named.format(self.swatch(label), self.classes[label])

    def paint(self, labels: np.ndarray) -> np.ndarray:
        """Return an RGB image, (H, W, 3), of labels, (H, W); unlabeled pixels are white."""
        return self.colors[np.minimum(labels, len(self.classes))]


def make_legend(
    classes: Sequence[str], palette: Sequence[Sequence[int]] | np.ndarray | None = None
) -> Legend:
    """Return the legend of a data set.

    Args:
        classes: Names of the classes.
        palette: RGB colors, 0 to 255; without one for every class, colors are made.
    """
    if palette is None or len(palette) != len(classes):
        palette = _made_colors(len(classes))
    colors = np.array([*palette, UNLABELED_COLOR], np.uint8).reshape(-1, 3)
    return Legend(tuple(classes), colors)


def _made_colors(number: int) -> np.ndarray:
    """Return strong colors, (number, 3), RGB: those of charts, or evenly spaced hues."""
    if number <= 10:
        colors = colormaps['tab10'](range(number))
    else:  # neighbors in the list are far apart in hue: steps of the golden ratio
        colors = colormaps['hsv'](np.arange(number) * 0.618034 % 1)
        colors[:, :3] *= np.array([1.0, 0.75, 0.5])[np.arange(number) % 3, None]
    return (np.asarray(colors)[:, :3] * 255).round().astype(np.uint8)


def reduce_picture(pixels: np.ndarray) -> np.ndarray:
    """Return an image, (H, W, 3), of at most ``WIDEST`` by ``TALLEST`` pixels."""
    return _reduced(pixels, cv2.INTER_AREA)


def reduce_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels, (H, W), of at most ``WIDEST`` by ``TALLEST`` pixels, chosen, not averaged."""
    return _reduced(labels.astype(np.uint16), cv2.INTER_NEAREST)


def _reduced(pixels: np.ndarray, interpolation: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = min(1.0, WIDEST / width, TALLEST / height)
    if scale == 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=interpolation)


def draw_differences(
    image: np.ndarray | None, labels: np.ndarray, different: np.ndarray, legend: Legend
) -> np.ndarray:
    """Draw the labels of some pixels on a pale image.

    Args:
        image: (H, W, 3), uint8, RGB; None for a light gray ground.
        labels: (H, W).
        different: The pixels to color, (H, W), bool. Their areas get a dark outline, because colors
            may be as pale as the image.
        legend: The colors.

    Returns:
        (H, W, 3), uint8, RGB.
    """
    if image is None:
        picture = np.full((*labels.shape, 3), 235, np.uint8)
    else:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        pale = (255 - PALE * (255 - gray)).astype(np.uint8)
        picture = np.repeat(pale[..., None], 3, axis=2)
    picture[different] = legend.paint(labels)[different]
    mask = different.astype(np.uint8)
    outline = cv2.dilate(mask, np.ones((3, 3), np.uint8)) > mask
    picture[outline] = (90, 90, 90)
    return picture


def segmentation_card(
    score: ImageScore,
    group: str,
    image: np.ndarray | None,
    truth: np.ndarray,
    predicted: np.ndarray,
    legend: Legend,
    ignore_index: int,
    missing: str = '',
) -> Card:
    """Return the card of an image: image, truth, prediction and errors side by side.

    Args:
        score: The scores of the image.
        group: Such as ``worst``.
        image: (H, W, 3), uint8, RGB; None if it cannot be read.
        truth: True labels, (H, W).
        predicted: Predicted labels, (H, W).
        legend: Names and colors.
        ignore_index: True label of pixels that are not evaluated.
        missing: Why there is no image.
    """
    confused = _confusions(truth, predicted, ignore_index, legend)
    truth, predicted = reduce_labels(truth), reduce_labels(predicted)
    labeled = truth != ignore_index
    if image is not None:
        image = fitted(image, truth)
    wrong = labeled & (truth != predicted)
    pictures = [] if image is None else [('image', image)]
    pictures += [
        ('truth', legend.paint(np.where(labeled, truth, len(legend.classes)))),
        ('prediction', legend.paint(predicted)),
        ('errors, in the color predicted', draw_differences(image, predicted, wrong, legend)),
    ]
    lines = [f'mIoU {percent(score.mean_iou)}, accuracy {percent(score.accuracy)}']
    lines += [confused] if confused else []
    lines += [legend_line(score.present, legend)]
    lines += [missing] if missing else []
    return Card(
        title=score.name,
        pictures=pictures,
        lines=lines,
        classes=[legend.classes[label] for label in score.present],
        group=group,
    )


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share of 0 to 1 in percent; a dash if there is none."""
    return '–' if share is None else f'{100 * share:.{digits}f} %'


def fitted(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return an image in the size of a reduced label map."""
    if image.shape[:2] == labels.shape:
        return image
    return cv2.resize(image, labels.shape[::-1], interpolation=cv2.INTER_AREA)


def legend_line(labels: Iterable[int], legend: Legend) -> Markup:
    """Return swatches and names of classes for a card; if there are many, of the first."""
    labels = list(labels)
    line = Markup(', ').join(map(legend.named, labels[:CLASSES_SHOWN]))
    more = len(labels) - CLASSES_SHOWN
    return line + (f' and {more} more' if more > 0 else '')


def _confusions(
    truth: np.ndarray, predicted: np.ndarray, ignore_index: int, legend: Legend
) -> Markup | None:
    """Return what was taken for what in an image, the largest confusions first."""
    size = len(legend.classes)
    counted = (truth != ignore_index) & (truth < size) & (predicted < size)
    pairs = truth[counted].astype(np.int64) * size + predicted[counted]
    confusion = np.bincount(pairs, minlength=size**2).reshape(size, size)
    found = largest_confusions(confusion, CONFUSIONS_SHOWN)
    if not found:
        return None
    sentence = ', '.join(
        f'{legend.classes[true]} as {legend.classes[taken]} ({pixels:,})'
        for true, taken, pixels in found
    )
    return Markup('Most wrong pixels: {}').format(sentence)
