"""Non-maximum suppression in its forms, and overlaps, are those of compiled mmcv."""

from functools import partial

import mmcv.ops
import numpy as np
import pytest
import torch
from support import stored_references
from support.operator_cases import crowded
from support.operator_checks import cases, check_determinism, check_stored
from support.operators import assert_same, computed_by, difference, extension


@pytest.mark.parametrize(
    'case', cases('nms', 'batched_nms', 'soft_nms', 'nms_match', 'bbox_overlaps'), ids=str
)
def test_equals_compiled(provider, case):
    check_stored(case)


def random_cases(count, most):
    """Boxes, scores, classes, a threshold and an offset; with ties, duplicates and empty boxes."""
    for seed in range(count):
        numbers = np.random.RandomState(seed)
        inputs = crowded(f'seed {seed}', numbers.randint(1, most))
        threshold = float(numbers.choice([0.1, 0.3, 0.45, 0.5, 0.6, 0.7]))
        yield inputs['boxes'], inputs['scores'], inputs['idxs'], threshold, seed % 2


def check_same(stand_in, calls):
    """Calls return the same indices as with compiled mmcv, and nearly the same scores."""
    with computed_by('mmcv'):
        expected = [call() for call in calls]
    with computed_by(stand_in):
        actual = [call() for call in calls]
    for (found, indices), (wanted, wanted_indices) in zip(actual, expected, strict=True):
        assert torch.equal(indices, wanted_indices)
        assert difference(found, wanted).relative < 1e-6


def test_nms_of_random_boxes(compiled, stand_in):
    check_same(
        stand_in,
        [
            partial(mmcv.ops.nms, boxes, scores, threshold, offset)
            for boxes, scores, _, threshold, offset in random_cases(200, 120)
        ],
    )


def test_batched_nms_of_random_boxes(compiled, stand_in):
    check_same(
        stand_in,
        [
            partial(mmcv.ops.batched_nms, *inputs, dict(type='nms', iou_threshold=threshold))
            for *inputs, threshold, _ in random_cases(50, 200)
        ],
    )


def test_nms_of_many_boxes(compiled, stand_in):
    """Of any coordinates: overlaps that round differently would show."""
    calls = []
    for count, scale in ((2000, 1.0), (6000, 1.0), (3000, 1000.0)):
        numbers = np.random.RandomState(count)
        corners = numbers.rand(count, 2) * 400
        boxes = np.concatenate([corners, corners + numbers.rand(count, 2) * 150], 1) * scale
        scores = torch.from_numpy(numbers.rand(count)).float()
        calls.append(partial(mmcv.ops.nms, torch.from_numpy(boxes).float(), scores, 0.5))
    check_same(stand_in, calls)


def test_soft_nms_of_random_boxes(compiled, stand_in):
    calls = [
        partial(mmcv.ops.soft_nms, boxes, scores, threshold, offset=offset, method=method)
        for boxes, scores, _, threshold, offset in random_cases(20, 50)
        for method in ('naive', 'linear', 'gaussian')
    ]
    check_same(stand_in, calls)


def test_nms_match_of_random_boxes(compiled, stand_in):
    for boxes, scores, _, threshold, _ in random_cases(20, 80):
        detections = torch.cat([boxes, scores[:, None]], 1)
        actual, expected = (
            extension(name).nms_match(detections, threshold) for name in (stand_in, 'mmcv')
        )
        assert [*map(list, actual)] == [*map(list, expected)]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_dtypes(stand_in, dtype):
    """Compiled mmcv suppresses in float32 only."""
    inputs = crowded('dtypes', 100)
    boxes, scores = inputs['boxes'].to(dtype), inputs['scores'].to(dtype)
    for options in (dict(), dict(offset=1), dict(score_threshold=0.4)):
        actual = mmcv.ops.nms(boxes, scores, 0.5, **options)
        expected = mmcv.ops.nms(boxes.float(), scores.float(), 0.5, **options)
        assert torch.equal(actual[1], expected[1])
        assert actual[0].dtype == dtype


def test_arrays_of_numpy(provider):
    inputs = crowded('numpy', 40)
    for function in (mmcv.ops.nms, mmcv.ops.soft_nms):
        expected = function(inputs['boxes'], inputs['scores'], 0.5)
        actual = function(inputs['boxes'].numpy(), inputs['scores'].numpy(), 0.5)
        assert all(isinstance(array, np.ndarray) for array in actual)
        assert [*map(np.ndarray.tolist, actual)] == [*map(torch.Tensor.tolist, expected)]


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_scores_that_are_not_finite(compiled, stand_in, value):
    """As in a training that diverges."""
    inputs = crowded('not finite', 30)
    inputs['scores'][[3, 7, 20]] = value
    check_same(stand_in, [partial(mmcv.ops.nms, inputs['boxes'], inputs['scores'], 0.5)])


def test_boxes_that_are_not_finite(compiled, stand_in):
    inputs = crowded('not finite', 30)
    inputs['boxes'][[3, 7], 2] = float('nan')
    inputs['boxes'][11, 3] = float('inf')
    check_same(stand_in, [partial(mmcv.ops.nms, inputs['boxes'], inputs['scores'], 0.5)])


def test_layout_and_determinism(provider):
    for case in cases('nms', 'soft_nms', 'nms_match', 'bbox_overlaps'):
        if case.scene not in ('nothing', 'no pairs'):
            check_determinism(lambda case=case: case.run(stored_references.inputs(case)))


def test_columns_of_boxes(stand_in):
    """Boxes in columns in memory, and scores with a stride: a detector's rows of five numbers."""
    inputs = crowded('layouts', 60)
    boxes, scores = inputs['boxes'], inputs['scores']
    rows = torch.cat([boxes, scores[:, None]], 1)
    for function in (mmcv.ops.nms, mmcv.ops.soft_nms):
        expected = dict(enumerate(function(boxes, scores, 0.5)))
        for given in (boxes.T.contiguous().T, rows[:, :4]):
            actual = dict(enumerate(function(given, rows[:, 4], 0.5)))
            assert_same(actual, expected, 0)
    expected = mmcv.ops.bbox_overlaps(boxes, boxes)
    actual = mmcv.ops.bbox_overlaps(rows[:, :4], boxes.T.contiguous().T)
    assert_same(dict(ious=actual), dict(ious=expected), 0)
