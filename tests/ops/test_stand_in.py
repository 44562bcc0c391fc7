"""The module in place of mmcv's compiled one: what it has, and what it says of the rest."""

import importlib
import pickle

import mmcv.ops
import pytest
import torch
from support.operators import available_providers, extension

from convnext_backbones.ops import stand_in as module
from convnext_backbones.ops.stand_in import StandIn

# Those that the configs of mmdet and mmseg call.
NAMES = """
nms softnms nms_match bbox_overlaps roi_align_forward roi_align_backward roi_pool_forward
roi_pool_backward deform_conv_forward deform_conv_backward_input deform_conv_backward_parameters
modulated_deform_conv_forward modulated_deform_conv_backward deform_roi_pool_forward
deform_roi_pool_backward masked_im2col_forward masked_col2im_forward ms_deform_attn_forward
ms_deform_attn_backward sigmoid_focal_loss_forward sigmoid_focal_loss_backward
softmax_focal_loss_forward softmax_focal_loss_backward carafe_naive_forward carafe_naive_backward
carafe_forward carafe_backward psamask_forward psamask_backward sync_bn_forward_mean
sync_bn_forward_var sync_bn_forward_output sync_bn_backward_param sync_bn_backward_data
get_compiler_version get_compiling_cuda_version
"""


def test_operators(stand_in):
    found = extension(stand_in)
    assert found.provider == stand_in
    assert {*found.operators} == {*NAMES.split()}
    assert all(getattr(found, name) is operator for name, operator in found.operators.items())


def test_every_module_is_loaded():
    """Operators of different modules have different names."""
    counts = [
        len(importlib.import_module(f'convnext_backbones.ops.{name}').OPERATORS)
        for name in module.PLAIN
    ]
    assert sum(counts) == len(NAMES.split()) - 2


@pytest.mark.parametrize(
    ('name', 'call'),
    [
        ('box_iou_rotated', lambda: mmcv.ops.box_iou_rotated(torch.ones(2, 5), torch.ones(2, 5))),
        ('nms_rotated', lambda: mmcv.ops.nms_rotated(torch.ones(2, 5), torch.ones(2), 0.5)),
        ('ball_query_forward', lambda: mmcv.ops.ball_query(0, 1, 2, *torch.ones(2, 1, 4, 3))),
        (
            'correlation_forward',
            lambda: mmcv.ops.Correlation()(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4)),
        ),
    ],
)
def test_missing_operators(stand_in, name, call):
    with pytest.raises(NotImplementedError, match=rf'\b{name} needs a compiled mmcv') as error:
        call()
    assert extension(stand_in).description in str(error.value)


def test_names_of_python_are_missing():
    """They are not taken for operators: copying, pickling and introspection ask for some."""
    found = extension('torch')
    assert not hasattr(found, '__path__') and not hasattr(found, '_operators')
    with pytest.raises(AttributeError, match="'mmcv._ext' has no attribute '_nms'"):
        found._nms  # noqa: B018
    with pytest.raises(TypeError, match='pickle'):
        pickle.dumps(found)


def test_faster_operators_take_the_place_of_plain_ones():
    found = StandIn('torchvision', 'torchvision 1', dict(nms=max))
    assert found.nms is max
    assert found.softnms is extension('torch').softnms


def test_versions(stand_in):
    """As mmcv prints them in a report of the environment."""
    assert extension(stand_in).description in mmcv.ops.get_compiler_version()
    assert mmcv.ops.get_compiling_cuda_version() == (torch.version.cuda or 'not available')


def test_plain_torch_runs_everywhere():
    assert 'torch' in available_providers()
    assert extension('torch').description == f'plain torch {torch.__version__}'
