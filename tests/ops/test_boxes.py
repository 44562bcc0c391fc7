"""Non-maximum suppression in its forms, and overlaps, are those of compiled mmcv."""

import mmcv.ops
import numpy as np
import pytest
import torch
from support import stored_references
from support.operator_cases import crowded
from support.operator_checks import cases, check_determinism, check_stored
from support.operators import assert_same, computed_by, difference


@pytest.mark.parametrize(
    'case', cases('nms', 'batched_nms', 'soft_nms', 'nms_match', 'bbox_overlaps'), ids=str
)
def test_equals_compiled(provider, case):
    check_stored(case)


def random_cases(count, most):
    """Boxes, scores, a threshold and an offset; many ties, duplicates and boxes without area."""
    for seed in range(count):
        numbers = np.random.RandomState(seed)
        inputs = crowded(f'seed {seed}', numbers.randint(1, most))
        threshold = float(numbers.choice([0.1, 0.3, 0.45, 0.5, 0.6, 0.7]))
        yield inputs['boxes'], inputs['scores'], inputs['idxs'], threshold, seed % 2


def both(stand_in, function, *arguments, **options):
    """Results of compiled mmcv and of another provider."""
    with computed_by('mmcv'):
        expected = function(*arguments, **options)
    with computed_by(stand_in):
        return function(*arguments, **options), expected


def test_nms_of_random_boxes(compiled, stand_in):
    for boxes, scores, idxs, threshold, offset in random_cases(200, 120):
        options = dict(iou_threshold=threshold, offset=offset)
        actual, expected = both(stand_in, mmcv.ops.nms, boxes, scores, **options)
        assert torch.equal(actual[1], expected[1])
        cfg = dict(type='nms', iou_threshold=threshold)
        actual, expected = both(stand_in, mmcv.ops.batched_nms, boxes, scores, idxs, cfg)
        assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize('count', [2000, 6000])
def test_nms_of_many_boxes(compiled, stand_in, count):
    """Of any coordinates: overlaps that round differently would show."""
    numbers = np.random.RandomState(count)
    corners = numbers.rand(count, 2) * 400
    boxes = np.concatenate([corners, corners + numbers.rand(count, 2) * 150], 1)
    boxes, scores = torch.from_numpy(boxes).float(), torch.from_numpy(numbers.rand(count)).float()
    for scale in (1.0, 1000.0):
        given = boxes * scale, scores, 0.5
        actual, expected = both(stand_in, mmcv.ops.nms, *given)
        assert torch.equal(actual[1], expected[1])


def test_soft_nms_of_random_boxes(compiled, stand_in):
    for boxes, scores, _, threshold, offset in random_cases(20, 50):
        for method in ('naive', 'linear', 'gaussian'):
            options = dict(iou_threshold=threshold, offset=offset, method=method)
            actual, expected = both(stand_in, mmcv.ops.soft_nms, boxes, scores, **options)
            assert torch.equal(actual[1], expected[1])
            assert difference(actual[0], expected[0]).relative < 1e-6


def test_nms_match_of_random_boxes(compiled, stand_in):
    for boxes, scores, _, threshold, _ in random_cases(20, 80):
        detections = torch.cat([boxes, scores[:, None]], 1)
        actual, expected = both(stand_in, mmcv.ops.nms_match, detections, threshold)
        assert [*map(torch.Tensor.tolist, actual)] == [*map(torch.Tensor.tolist, expected)]


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
    actual, expected = both(stand_in, mmcv.ops.nms, inputs['boxes'], inputs['scores'], 0.5)
    assert torch.equal(actual[1], expected[1])


def test_boxes_that_are_not_finite(compiled, stand_in):
    inputs = crowded('not finite', 30)
    inputs['boxes'][[3, 7], 2] = float('nan')
    inputs['boxes'][11, 3] = float('inf')
    actual, expected = both(stand_in, mmcv.ops.nms, inputs['boxes'], inputs['scores'], 0.5)
    assert torch.equal(actual[1], expected[1])


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
