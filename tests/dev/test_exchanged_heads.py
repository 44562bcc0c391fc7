"""The report on shipped configs, and trials of one config of each architecture."""

import pytest

from dev import exchanged_heads
from dev.exchanged_heads import Outcome, problems, report
from dev.exchanged_training import ARCHITECTURES, Trial, try_out
from dev.shipped_configs import configs_folder, group_of_one

# One of each kind; all others run with the slow tests.
QUICK = ('RetinaNet', 'YOLOX', 'FCN', 'SegFormer')
CONFIGS = {
    'mmdet': (
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        'convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py',
        'cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py',
        'common/ms-90k_coco.py',
        'v3det/fcos_swinb_fpn_8x4_sample1e-3_mstrain_v3det_2x.py',
    ),
    'mmseg': ('pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',),
}


def test_shipped_configs_are_exchanged_or_refused_with_the_reason(monkeypatch, capsys):
    def choose(scope):
        return [configs_folder(scope) / name for name in CONFIGS[scope]]

    monkeypatch.setattr(exchanged_heads, 'list_configs', choose)
    assert exchanged_heads.main([]) == 0
    text = capsys.readouterr().out
    assert 'mmdet: 5 configs, 2 exchanged, 2 built' in text
    assert 'mmseg: 1 configs, 1 exchanged, 1 built' in text
    assert 'refused, 1: cannot put a ConvNeXt in the place of HourglassNet' in text
    assert 'does not build with its own backbone either: FPN has no force_grad' in text


def test_a_model_that_cannot_be_built_is_a_failure(monkeypatch, capsys):
    def fail(cfg):
        raise TypeError('wrong channels')

    monkeypatch.setattr(exchanged_heads, 'build_on_meta', fail)
    assert exchanged_heads.main(['--scope=mmdet', '--only=fcos_r50-caffe_fpn_gn-head_1x']) == 1
    assert 'TypeError in its building: wrong channels' in capsys.readouterr().out
    text = report('mmdet', [Outcome('a.py'), Outcome('b.py', failed='why')])
    assert text.splitlines()[0] == 'mmdet: 2 configs, 2 exchanged, 1 built'


def test_problems_are_named():
    assert problems(Trial('FCN', (), 1e-6, 1)) == []
    assert problems(Trial('FCN', ('backbone.norm0.weight',), 1e-3, 1)) == [
        'no gradient: backbone.norm0.weight',
        'optimized, the raw outputs differ by 1.0e-03',
    ]
    assert problems(Trial('FCN', (), float('nan'), 1))
    expected = ('backbone.norm0.weight', 'backbone.norm0.bias')
    assert problems(Trial('NAS-FCOS', expected, 0.0, 1)) == []


def test_there_are_many_architectures():
    assert len(ARCHITECTURES) >= 40 and len({*ARCHITECTURES.values()}) == len(ARCHITECTURES)


@pytest.mark.parametrize(
    'name',
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in ARCHITECTURES
    ],
)
def test_an_architecture_trains_and_its_optimized_form_computes_the_same(name):
    with group_of_one():
        trial = try_out(name, ARCHITECTURES[name])
    assert problems(trial) == [] and trial.outputs
