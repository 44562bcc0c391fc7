"""The count of the shipped configs that run."""

import json

import pytest

from convnext_backbones.ops.stand_in import StandIn
from dev import shipped_configs
from dev.shipped_configs import NO_MODEL, Outcome, configs_folder, explain, report

CONFIGS = {
    'mmdet': {
        'dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py': 'deform_roi_pool_forward',
        'dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py': 'modulated_deform_conv_forward',
        'faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco.py': 'softnms',
        'pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py': 'nms_match',
        'strong_baselines/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-100e_coco.py': (
            'sync_bn_forward_mean'
        ),
        'ld/ld_r18-gflv1-r101_fpn_1x_coco.py': 'nms',  # with a teacher
    },
    'mmseg': {'psanet/psanet_r50-d8_4xb4-20k_voc12aug-512x512.py': 'psamask_forward'},
}


@pytest.fixture
def configs(monkeypatch):
    """Let the command find only some of the shipped configs."""

    def choose(scope):
        return [configs_folder(scope) / name for name in CONFIGS[scope]]

    monkeypatch.setattr(shipped_configs, 'list_configs', choose)


def provide_all_but(monkeypatch, *missing):
    """A provider that lacks some operators."""
    found = ('a provider', lambda operator: operator not in missing)
    monkeypatch.setattr(shipped_configs, 'find_provider', lambda name: found)


def test_shipped_configs_are_found_without_fragments():
    for scope in ('mmdet', 'mmseg'):
        names = [str(path) for path in shipped_configs.list_configs(scope)]
        assert len(names) > 600
        assert not any('/_base_/' in name for name in names)


def test_all_run_where_no_operator_is_missing(configs, monkeypatch, tmp_path, capsys):
    provide_all_but(monkeypatch)
    file = tmp_path / 'outcomes.json'
    assert shipped_configs.main([f'--json={file}']) == 0
    text = capsys.readouterr().out
    assert 'mmdet: 6 configs, 6 with a model, 6 built, 6 with all operators' in text
    assert 'mmseg: 1 configs, 1 with a model, 1 built, 1 with all operators' in text
    assert 'built without, 1: the weights of teacher_ckpt, a download\n      ld/ld_r18' in text
    for scope, (package, *outcomes) in json.loads(file.read_text()).items():
        assert package['config'] == scope
        called = {outcome['config']: outcome['operators'] for outcome in outcomes}
        for name, operator in CONFIGS[scope].items():
            assert operator in called[name]
            if operator != 'nms':  # the others are in one of these configs alone
                assert sum(operator in operators for operators in called.values()) == 1


def test_a_missing_operator_is_reported_with_the_config(configs, monkeypatch, capsys):
    provide_all_but(monkeypatch, 'psamask_forward', 'roi_pool_forward')
    assert shipped_configs.main(['--scope=mmseg']) == 1
    text = capsys.readouterr().out
    assert '1 built, 0 with all operators' in text
    assert f'missing, 1: psamask_forward\n      {[*CONFIGS["mmseg"]][0]}' in text


def test_what_the_package_itself_calls_counts(monkeypatch, capsys):
    monkeypatch.setattr(shipped_configs, 'list_configs', lambda scope: [])
    provide_all_but(monkeypatch, 'roi_pool_forward')
    assert shipped_configs.main(['--scope=mmdet']) == 1
    assert 'missing, 1: roi_pool_forward\n      mmdet' in capsys.readouterr().out


def test_a_stand_in_has_only_the_operators_that_it_lists():
    """Looking one up in it succeeds for any name."""
    stand_in = StandIn('torch', 'plain torch')
    assert callable(stand_in.no_such_operator)
    has_operator = shipped_configs.lookup_in(stand_in)
    assert has_operator('nms')
    assert not has_operator('no_such_operator')


def test_the_provider_of_this_process():
    description, has_operator = shipped_configs.find_provider('')
    assert description
    assert has_operator('roi_align_backward')
    assert not has_operator('no_such_operator')


def test_reasons_are_grouped():
    outcomes = [
        Outcome('mmdet'),
        Outcome('common/data.py', NO_MODEL),
        Outcome('a.py', 'needs lap, which is not installed'),
        Outcome('b.py', operators=('nms',)),
        Outcome('c.py', 'needs lap, which is not installed'),
        Outcome('d.py', operators=('nms', 'carafe_forward'), missing=('carafe_forward',)),
    ]
    lines = report('mmdet', outcomes).splitlines()
    assert lines[0] == 'mmdet: 5 configs, 4 with a model, 2 built, 1 with all operators'
    at = lines.index('  not built, 2: needs lap, which is not installed')
    assert lines[at + 1 : at + 3] == ['      a.py', '      c.py']
    assert '      2 nms' in lines


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (ModuleNotFoundError("No module named 'ldm.util'"), 'needs ldm, which is not installed'),
        (RuntimeError('lap is not installed,   please'), 'needs lap, which is not installed'),
        (
            FileNotFoundError(2, 'No such file or directory', '/x/y/base.py'),
            'includes base.py, which is not at the place that it names',
        ),
        (
            ImportError('Please install Detectron2 first'),
            'needs Detectron2, which is not installed',
        ),
        (ImportError('X requires timm, please install it'), 'needs timm, which is not installed'),
        (
            FileNotFoundError('file "/x/y/base" does not exist'),
            'includes base, which is not at the place that it names',
        ),
        (TypeError('missing\n  num_classes'), 'TypeError in its building: missing num_classes'),
    ],
)
def test_reasons(error, reason):
    assert explain(error) == reason
    try:
        raise ImportError('failed to import custom modules') from error
    except ImportError as outer:
        assert explain(outer) == reason


def test_downloads_are_left_out():
    weights = dict(type='Pretrained', checkpoint='https://x')  # which are not read in a building
    model = dict(
        backbone=dict(pretrained=True, init_cfg=weights),
        teacher_ckpt='https://x',
        heads=[dict(lang_model_name='b')],
    )
    left_out = [*shipped_configs.leave_out_downloads(model)]
    assert len(left_out) == 3
    assert model['backbone']['pretrained'] is False
    assert model['teacher_ckpt'] is None
    assert weights['checkpoint'] == 'https://x'
