"""Which operators a model can call, as read from its code."""

import re
from functools import partial
from pathlib import Path

import mmcv.ops
import pytest

from dev.called_operators import called_by, named, parts, read_operators


def test_operators_of_the_modules_are_those_that_mmcv_loads():
    loaded = {}
    for path in Path(mmcv.ops.__file__).parent.glob('*.py'):
        lists = re.findall(r"load_ext\(\s*'_ext',\s*\[(.*?)\]", path.read_text(), re.DOTALL)
        loaded[path.stem] = set(re.findall(r"'(\w+)'", ''.join(lists)))
    found = read_operators()
    assert found['roi_align'] == {'roi_align_forward', 'roi_align_backward'}
    assert {name: found[name] - loaded[name] for name in found if found[name] - loaded[name]} == {}
    assert sum(map(len, found.values())) > 100


@pytest.mark.parametrize(
    ('code', 'operators'),
    {
        'nms': 'nms',
        'batched_nms': 'nms',  # by evaluating the name
        'soft_nms': 'softnms',
        'nms_match': 'nms_match',
        'roi_align': 'roi_align_forward roi_align_backward',  # a bound method of a Function
        'RoIAlign': 'roi_align_forward roi_align_backward',
        'CARAFEPack': 'carafe_forward carafe_backward',
        'MultiScaleDeformableAttention': 'ms_deform_attn_forward ms_deform_attn_backward',
        'point_sample': '',
    }.items(),
)
def test_functions_and_classes_of_mmcv(code, operators):
    assert called_by([getattr(mmcv.ops, code)]) == {*operators.split()}


def test_functions_of_mmdet_that_call_each_other():
    from mmdet.models.layers import multiclass_nms
    from mmdet.models.losses import FocalLoss

    assert called_by([multiclass_nms]) == {'nms'}
    assert called_by([FocalLoss]) == {'sigmoid_focal_loss_forward', 'sigmoid_focal_loss_backward'}


def test_parts_of_a_model_that_are_not_layers_count():
    from mmdet.models.task_modules import ScoreHLRSampler

    class Head:
        def __init__(self):
            self.tools = dict(samplers=[object.__new__(ScoreHLRSampler)])

    assert 'nms_match' in called_by(parts(Head()))
    assert 'nms' in called_by(parts([partial(mmcv.ops.nms, offset=1)]))


def test_a_config_names_its_suppression():
    cfg = dict(test_cfg=dict(rcnn=[dict(nms=dict(type='soft_nms'), type='unknown')]))
    assert [*named(cfg)] == [mmcv.ops.soft_nms]
