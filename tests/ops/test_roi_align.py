"""RoIAlign is that of compiled mmcv, forward and backward."""

from functools import partial

import mmcv.ops
import numpy as np
import pytest
import torch
from support import stored_references
from support.operator_cases import normal, random, regions, roi_align
from support.operator_checks import (
    cases,
    check_determinism,
    check_layouts,
    check_stored,
    gradcheck,
)
from support.operators import TOLERANCES, assert_same, computed_by, difference


@pytest.mark.parametrize('case', cases('roi_align'), ids=str)
def test_equals_compiled(provider, case):
    check_stored(case)


def random_regions(seed):
    """Of more images, regions and channels than one block, whichever way they are divided."""
    numbers = np.random.RandomState(seed)
    images, channels = numbers.randint(1, 4), int(numbers.choice([1, 5, 32]))
    features = normal(numbers, images, channels, numbers.randint(1, 40), numbers.randint(1, 40))
    count = numbers.randint(1, 100)
    corners = numbers.rand(count, 2) * 200 - 40
    sizes = numbers.rand(count, 2) * numbers.choice([10, 60, 240])
    image = numbers.randint(0, images, (count, 1))
    rois = torch.from_numpy(np.concatenate([image, corners, corners + sizes], 1)).float()
    return partial(
        roi_align,
        features,
        rois,
        output_size=int(numbers.choice([1, 7, 14])),
        spatial_scale=float(numbers.choice([0.5, 0.25, 0.0625])),
        sampling_ratio=int(numbers.choice([0, 0, 1, 2])),
        aligned=seed % 2 == 0,
        pool_mode='max' if seed % 6 == 5 else 'avg',
    )


def test_random_regions(compiled, stand_in):
    calls = [random_regions(seed) for seed in range(12)]
    with computed_by('mmcv'):
        expected = [call() for call in calls]
    for call, wanted in zip(calls, expected, strict=True):
        assert_same(call(), wanted, TOLERANCES[torch.float32])


def test_bfloat16(stand_in):
    """Compiled mmcv has no kernel for it; the values are those in float32, rounded."""
    inputs = {name: tensor.bfloat16() for name, tensor in regions().items()}
    options = dict(output_size=3, spatial_scale=0.5, sampling_ratio=2)
    actual = roi_align(**inputs, **options)
    expected = roi_align(**{name: tensor.float() for name, tensor in inputs.items()}, **options)
    for name, tensor in expected.items():
        assert actual[name].dtype == torch.bfloat16
        assert difference(actual[name], tensor).relative < TOLERANCES[torch.bfloat16]


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize(('aligned', 'mode'), [(True, 'avg'), (False, 'avg'), (True, 'max')])
def test_gradients(provider, ratio, aligned, mode):
    layer = mmcv.ops.RoIAlign((2, 3), 0.5, ratio, mode, aligned)
    gradcheck(lambda features, rois: layer(features, rois), regions(), 'features')


def test_layouts(stand_in):
    for case in cases('roi_align'):
        if case.dtype == torch.float32 and case.scene == 'regions':
            check_layouts(case.run, stored_references.inputs(case), case.tolerance)


def test_determinism(provider):
    numbers = random('determinism')
    features = normal(numbers, 2, 8, 20, 30)
    rois = torch.cat([regions()['rois']] * 10)
    check_determinism(lambda: roi_align(features, rois, output_size=7, sampling_ratio=0))


def test_a_batch_without_images(provider):
    layer = mmcv.ops.RoIAlign(3)
    assert layer(torch.zeros(0, 4, 8, 8), torch.zeros(0, 5)).shape == (0, 4, 3, 3)
