"""The sizes at which images are trained on and evaluated, chosen from the sizes in the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..data.found import Statistics

STEP = 32  # the largest stride: sides that it divides waste nothing
# Pixels below which the objects of the smallest tenth are hard to find on a map of stride 4.
SMALL_OBJECT = 16
# Images are enlarged at most this much: interpolation adds no details.
MOST_ENLARGED = 2.0
AS_ASKED = 'as asked for'
# What RandomResize of the bases does.
RESIZED_FOR_DETECTORS = 'enlarged or reduced by up to a fourth'
RESIZED_FOR_SEGMENTORS = 'enlarged or reduced by a factor of up to 2'
# Sides below which UperNet's pyramid and the stride of 32 leave next to nothing of an image.
LEAST_SIDE = 224


@dataclass(frozen=True)
class Limits:
    """The largest sizes for a kind of machine, in pixels.

    Attributes:
        long: Long side in evaluation.
        short: Short side in evaluation, unless the objects are small.
        detector_crop: Side of the crops that detectors are trained on.
        segmentor_crop: Side of the crops that segmentors are trained on.
    """

    long: int
    short: int
    detector_crop: int
    segmentor_crop: int


# Of the authors' recipes, but for crops of detectors, which save memory where images are large.
GPU_LIMITS = Limits(long=2048, short=800, detector_crop=1024, segmentor_crop=512)
# Small crops, because a CPU takes long for each pixel.
CPU_LIMITS = Limits(long=1024, short=512, detector_crop=320, segmentor_crop=256)


@dataclass(frozen=True)
class Sizes:
    """Sizes in pixels, and why.

    Attributes:
        scale: Long and short side that images are scaled to, with their proportions kept.
        scale_reason: Why.
        crop: Height and width of the crops that are trained on.
        crop_reason: Why.
    """

    scale: tuple[int, int]
    scale_reason: str
    crop: tuple[int, int]
    crop_reason: str

    @property
    def pixels(self) -> int:
        """The pixels of an image as it is trained on."""
        return min(self.crop[0] * self.crop[1], self.scale[0] * self.scale[1])


def detector_sizes(statistics: Statistics, limits: Limits) -> Sizes:
    """Choose sizes for a detector: small objects need larger images."""
    long, short = _sides(statistics)
    factor = min(1.0, limits.long / long, limits.short / short)
    reason = _unchanged_or_reduced(factor, long, short)
    small = statistics.small_object_size
    if 0 < small * factor < SMALL_OBJECT:
        factor = max(factor, min(SMALL_OBJECT / small, MOST_ENLARGED, limits.long / long))
        reason = (
            f'images of {long} x {short} times {factor:.2g}: a tenth of the objects is smaller '
            f'than {small:.0f} pixels'
        )
    scale = _scaled(long, short, factor)
    if factor == 1 and scale != (long, short):
        reason = f'the images have {long} x {short} pixels: the nearest multiples of {STEP}'
    return _with_crop(scale, reason, limits.detector_crop, RESIZED_FOR_DETECTORS)


def segmentor_sizes(statistics: Statistics, limits: Limits, share: float = 1.0) -> Sizes:
    """Choose sizes for a segmentor: those of the images, unless they are very large or small.

    Args:
        statistics: Of the data.
        limits: For the machine.
        share: Of the short side, that crops have at most.
    """
    long, short = _sides(statistics)
    factor = min(1.0, limits.long / long, limits.long / 2 / short)
    reason = _unchanged_or_reduced(factor, long, short)
    if short < LEAST_SIDE:
        factor = LEAST_SIDE / short
        reason = f'images of {long} x {short}, enlarged: the last map has a stride of {STEP}'
    # Segmentors take any size: one that need not change stays.
    scale = (long, short) if factor == 1 else _scaled(long, short, factor)
    return _in_short_side(scale, reason, limits, share)


def given_detector_sizes(scale: Sequence[int], limits: Limits) -> Sizes:
    """Take the long and short side that a user wants for a detector."""
    sides = max(scale), min(scale)
    return _with_crop(sides, AS_ASKED, limits.detector_crop, RESIZED_FOR_DETECTORS)


def given_segmentor_sizes(scale: Sequence[int], limits: Limits, share: float = 1.0) -> Sizes:
    """Take the long and short side that a user wants for a segmentor."""
    return _in_short_side((max(scale), min(scale)), AS_ASKED, limits, share)


def _in_short_side(scale: tuple[int, int], reason: str, limits: Limits, share: float) -> Sizes:
    """Bound square crops by a share of the short side."""
    largest = max(STEP, int(share * scale[1]) // STEP * STEP)
    if largest >= limits.segmentor_crop:
        return _with_crop(scale, reason, limits.segmentor_crop, RESIZED_FOR_SEGMENTORS)
    side = min(largest, *scale)
    return Sizes(scale, reason, (side, side), 'so that reduced images need little padding, or none')


def _sides(statistics: Statistics) -> tuple[int, int]:
    sides = statistics.width, statistics.height
    return max(sides), min(sides)


def _unchanged_or_reduced(factor: float, long: int, short: int) -> str:
    if factor == 1:
        return f'the images have {long} x {short} pixels, and as many are used'
    return f'images of {long} x {short} times {factor:.2g}: larger ones take too long here'


def _with_crop(scale: tuple[int, int], reason: str, largest: int, resized: str) -> Sizes:
    crop = (min(largest, scale[1]), min(largest, scale[0]))
    if crop == scale[::-1]:
        why = f'of images that are {resized}'
    else:
        why = f'at most {largest} pixels wide and high, for memory and time'
    return Sizes(scale, reason, crop, why)


def _scaled(long: int, short: int, factor: float) -> tuple[int, int]:
    """Return the sides times a factor, as multiples of the stride."""
    return _rounded(long * factor), _rounded(short * factor)


def _rounded(side: float) -> int:
    return max(1, round(side / STEP)) * STEP
