"""Sizes follow from those in the data."""

import pytest

from convnext_backbones.authoring.sizes import (
    CPU_LIMITS,
    GPU_LIMITS,
    STEP,
    detector_sizes,
    given_detector_sizes,
    given_segmentor_sizes,
    segmentor_sizes,
)
from convnext_backbones.data.found import Statistics


def statistics(width, height, small=0.0):
    return Statistics(width, height, width, height, object_size=2 * small, small_object_size=small)


def test_a_detector_takes_images_as_they_are_or_reduced():
    sizes = detector_sizes(statistics(640, 480, small=40), GPU_LIMITS)
    assert sizes.scale == (640, 480)
    assert 'as many are used' in sizes.scale_reason
    large = detector_sizes(statistics(3000, 4000, small=200), GPU_LIMITS)
    assert large.scale == (1056, 800)
    assert 'times 0.27' in large.scale_reason


@pytest.mark.parametrize('limits', [GPU_LIMITS, CPU_LIMITS], ids=['GPU', 'CPU'])
def test_small_objects_enlarge_the_images(limits):
    sizes = detector_sizes(statistics(256, 256, small=10), limits)
    assert sizes.scale == (416, 416)
    assert 'smaller than 10 pixels' in sizes.scale_reason
    # As much as interpolation is worth.
    assert detector_sizes(statistics(256, 256, small=2), limits).scale == (512, 512)
    # A reduced image is reduced less, up to the limit.
    assert detector_sizes(statistics(4000, 3000, small=10), limits).scale[0] == limits.long


def test_crops_are_bounded_by_the_kind_of_machine():
    aerial = statistics(2000, 2000, small=20)
    assert detector_sizes(aerial, GPU_LIMITS).crop == (1024, 1024)
    assert detector_sizes(aerial, CPU_LIMITS).crop == (320, 320)
    small = detector_sizes(statistics(320, 160, small=20), CPU_LIMITS)
    assert small.crop == (160, 320)
    assert small.pixels == 320 * 160


def test_a_segmentor_takes_the_images_as_they_are_unless_they_are_extreme():
    assert segmentor_sizes(statistics(480, 360), GPU_LIMITS).scale == (480, 360)
    assert segmentor_sizes(statistics(480, 360), CPU_LIMITS).crop == (256, 256)
    assert segmentor_sizes(statistics(2048, 1024), GPU_LIMITS).scale == (2048, 1024)
    assert segmentor_sizes(statistics(6000, 4000), GPU_LIMITS).scale == (1536, 1024)
    tiny = segmentor_sizes(statistics(100, 50), GPU_LIMITS)
    assert tiny.scale == (448, 224)
    assert 'enlarged' in tiny.scale_reason


@pytest.mark.parametrize('width', [31, 333, 1001, 2500])
def test_changed_sides_are_multiples_of_the_stride(width):
    sizes = detector_sizes(statistics(width, 3 * width, small=5), GPU_LIMITS)
    assert not any(side % STEP for side in sizes.scale)
    assert sizes.crop[0] <= sizes.scale[1]
    assert sizes.crop[1] <= sizes.scale[0]


def test_a_user_may_give_the_scale():
    sizes = given_detector_sizes((600, 900), CPU_LIMITS)
    assert sizes.scale == (900, 600)
    assert sizes.scale_reason == 'as asked for'
    assert sizes.crop == (320, 320)


def test_crops_of_segmentors_lie_in_the_short_side():
    assert segmentor_sizes(statistics(640, 480), GPU_LIMITS).crop == (480, 480)
    assert segmentor_sizes(statistics(640, 480), GPU_LIMITS, 0.75).crop == (352, 352)
    assert given_segmentor_sizes((200, 320), CPU_LIMITS, 0.75).crop == (128, 128)
    assert given_segmentor_sizes((20, 20), CPU_LIMITS).crop == (20, 20)


def test_reasons_say_what_is_done():
    tiny = detector_sizes(statistics(5, 4), GPU_LIMITS)
    assert tiny.scale == (32, 32)
    assert 'the nearest multiples of 32' in tiny.scale_reason
    assert 'by up to a fourth' in tiny.crop_reason
    square = segmentor_sizes(statistics(512, 512), GPU_LIMITS)
    assert square.crop == square.scale == (512, 512)
    assert 'by a factor of up to 2' in square.crop_reason
