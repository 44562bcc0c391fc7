"""Layer-wise learning-rate decay: equal to the toolboxes' groups, and impossible to misuse."""

import importlib

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from convnext_backbones import ConvNeXt
from convnext_backbones.models.layer_ids import count_layers, layer_id

# (arch, the authors' num_layers, decay_rate, decay_type) of the published experiments.
SETTINGS = [
    ('tiny', 6, 0.95, 'layer_wise'),
    ('tiny', 6, 0.7, 'layer_wise'),
    ('small', 12, 0.7, 'layer_wise'),
    ('base', 12, 0.8, 'layer_wise'),
    ('large', 12, 0.7, 'layer_wise'),
    ('xlarge', 12, 0.7, 'layer_wise'),
    ('tiny', 6, 0.9, 'stage_wise'),
    ('small', 12, 0.9, 'stage_wise'),
    ('base', 12, 0.9, 'stage_wise'),
    ('xlarge', 12, 0.9, 'stage_wise'),
]


class Model(nn.Module):
    """A backbone with something that stands for neck and heads: decayed, undecayed, normalized."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(8, 8, 1)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))


def model(arch, **kwargs):
    with torch.device('meta'):
        return Model(ConvNeXt(arch, layer_scale_init_value=1.0, **kwargs))


def groups(module, constructor='ConvNeXtLayerDecayConstructor', lr=2e-4, **paramwise):
    cfg = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.05),
        constructor=constructor,
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(module, cfg).optimizer.param_groups


@pytest.mark.parametrize(('arch', 'num_layers', 'rate', 'decay_type'), SETTINGS)
@pytest.mark.parametrize('toolbox', ['mmdet', 'mmseg'])
def test_groups_are_those_of_the_toolboxes(toolbox, arch, num_layers, rate, decay_type):
    importlib.import_module(f'{toolbox}.engine.optimizers')
    module = model(arch)
    assert count_layers(module.backbone.variant.depths) == num_layers
    ours = groups(module, decay_rate=rate, decay_type=decay_type)
    theirs = groups(
        module,
        f'{toolbox}.LearningRateDecayOptimizerConstructor',
        decay_rate=rate,
        decay_type=decay_type,
        num_layers=num_layers,
    )
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert our['group_name'] == their['group_name']
        assert our['param_names'] == their['param_names']
        assert [id(p) for p in our['params']] == [id(p) for p in their['params']]
        for key in ('lr', 'lr_scale', 'weight_decay'):
            assert our[key] == pytest.approx(their[key], rel=1e-12)


@pytest.mark.parametrize('decay_type', ['layer_wise', 'stage_wise'])
@pytest.mark.parametrize('arch', ['atto', 'tiny', 'base', 'huge'])
def test_groups_of_v2_are_those_of_v1_of_that_size(arch, decay_type):
    settings = dict(decay_rate=0.7, decay_type=decay_type)
    with torch.device('meta'):
        module = Model(ConvNeXt(arch, use_grn=True))
    first, second = (
        sorted(groups(net, **settings), key=lambda group: group['group_name'])
        for net in (model(arch), module)
    )
    assert [(g['group_name'], g['lr'], g['weight_decay']) for g in first] == [
        (g['group_name'], g['lr'], g['weight_decay']) for g in second
    ]
    for old, new in zip(first, second, strict=True):
        news = {name for name in new['param_names'] if '.grn.' in name}
        olds = {name for name in old['param_names'] if name.endswith('.gamma')}
        assert set(new['param_names']) - news == set(old['param_names']) - olds
        # The authors advise no weight decay for them.
        assert {name.rpartition('.grn.')[0] for name in news} == {name[:-6] for name in olds}
        assert not news or new['weight_decay'] == 0


def test_every_parameter_is_in_one_group_and_rates_rise_towards_the_heads():
    module = model('small')
    found = groups(module, decay_rate=0.7)
    names = [name for group in found for name in group['param_names']]
    assert sorted(names) == sorted(name for name, _ in module.named_parameters())
    rate = {name: group['lr'] for group in found for name in group['param_names']}
    order = ['downsample_layers.0.0', 'stages.0.0.dwconv', 'stages.1.2.dwconv']
    order += [f'stages.2.{block}.dwconv' for block in range(0, 27, 3)]
    order += ['stages.3.0.dwconv', 'norm0']
    rates = [rate[f'backbone.{name}.weight'] for name in order]
    assert rates == sorted(set(rates))
    assert rates[-1] == rate['neck.weight'] == 2e-4
    assert rates[0] == pytest.approx(2e-4 * 0.7**13)


def test_no_setting_can_raise_a_rate_above_the_base():
    """What a num_layers of 6 does to a net of 27 blocks with the toolboxes' constructor."""
    for depths in ([1, 1, 1, 1], [3, 3, 10, 3], [2, 2, 40, 2]):
        found = groups(model(dict(depths=depths, dims=[8] * 4)), decay_rate=0.7)
        assert max(group['lr_scale'] for group in found) == 1


def test_vectors_have_no_weight_decay():
    for group in groups(model('atto'), decay_rate=0.9):
        decays = {param.dim() > 1 for param in group['params']}
        assert decays == {group['weight_decay'] > 0}


def test_frozen_parameters_are_left_out():
    found = groups(model('atto', frozen_stages=2), decay_rate=0.9)
    names = {name for group in found for name in group['param_names']}
    assert not any(name.startswith(('backbone.stages.0', 'backbone.stages.1')) for name in names)
    assert any(name.startswith('backbone.stages.2') for name in names)


def test_custom_keys_multiply_and_the_longest_wins():
    keys = {
        'backbone.norm': dict(lr_mult=0.5),
        'norm3': dict(lr_mult=9.0),
        'head': dict(lr_mult=2.0, decay_mult=0.0),
    }
    found = groups(model('atto'), decay_rate=0.9, custom_keys=keys)
    by_name = {name: group for group in found for name in group['param_names']}
    assert by_name['backbone.norm3.weight']['lr_scale'] == 0.5
    assert by_name['head.0.weight']['lr_scale'] == 2.0
    assert by_name['head.0.weight']['weight_decay'] == 0.0
    assert by_name['neck.weight']['lr_scale'] == 1.0
    assert by_name['neck.weight']['weight_decay'] == 0.05
    assert by_name['backbone.stages.0.0.norm.weight']['lr_scale'] == pytest.approx(0.9**5)


def test_a_parameter_without_a_rule_is_an_error():
    module = model('atto')
    module.backbone.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="no learning-rate rule covers .*'extra.weight'"):
        groups(module, decay_rate=0.9)
    with pytest.raises(ValueError, match='no learning-rate rule'):
        layer_id('model.stages.0.0.gamma', 6, 'layer_wise')


def test_another_backbone_is_an_error():
    with pytest.raises(ValueError, match='whose backbone is this .* ConvNeXt, got Conv2d'):
        groups(Model(nn.Conv2d(3, 8, 1)), decay_rate=0.9)
    with pytest.raises(ValueError, match='got NoneType in Conv2d'):
        groups(nn.Conv2d(3, 8, 1), decay_rate=0.9)


def test_backbones_of_a_detector_inside_of_a_model_decay_as_well():
    class Wrapper(nn.Module):
        def __init__(self, *names):
            super().__init__()
            for name, arch in names:
                self.add_module(name, model(arch))

    scales = {
        name.removeprefix('student.'): group['lr_scale']
        for group in groups(Wrapper(('student', 'atto'), ('teacher', 'atto')), decay_rate=0.9)
        for name in group['param_names']
    }
    alone = {
        name: group['lr_scale']
        for group in groups(model('atto'), decay_rate=0.9)
        for name in group['param_names']
    }
    assert {name: scales[name] for name in alone} == alone
    assert scales['teacher.backbone.downsample_layers.0.0.weight'] == min(alone.values())
    with pytest.raises(ValueError, match='expected backbones of one size for layer-wise decay'):
        groups(Wrapper(('student', 'atto'), ('teacher', 'small')), decay_rate=0.9)


def test_a_subclass_of_the_backbone_will_do():
    class Other(ConvNeXt):
        pass

    with torch.device('meta'):
        found = groups(Model(Other('atto')), decay_rate=0.9)
    expected = groups(model('atto'), decay_rate=0.9)
    assert [group['param_names'] for group in found] == [group['param_names'] for group in expected]


def test_other_numbers_of_stages_are_an_error():
    module = model(dict(depths=[1, 1, 1], dims=[8, 8, 8]), out_indices=2)
    with pytest.raises(ValueError, match=r'four stages .* got depths \(1, 1, 1\)'):
        groups(module, decay_rate=0.9)


@pytest.mark.parametrize(
    ('paramwise', 'message'),
    [
        (dict(decay_type='layer_wise'), r'decay_rate in \(0, 1\], got None'),
        (dict(decay_rate=0), r'decay_rate in \(0, 1\], got 0'),
        (dict(decay_rate=1.2), r'decay_rate in \(0, 1\], got 1.2'),
        (dict(decay_rate='0.9'), "got '0.9'"),
        (dict(decay_rate=0.9, decay_type='layers'), "one of layer_wise, stage_wise, got 'layers'"),
        (dict(decay_rate=0.9, num_layers=6), 'num_layers; num_layers is derived'),
        (dict(decay_rate=0.9, norm_decay_mult=0.0), 'got norm_decay_mult'),
        (dict(decay_rate=0.9, custom_keys=dict(hed=dict(lr_mult=2))), 'hed, which match none'),
        (dict(decay_rate=0.9, custom_keys=dict(head=dict(lr=2))), 'lr_mult and decay_mult only'),
        (dict(decay_rate=0.9, custom_keys=dict(head=2)), 'lr_mult and decay_mult only, got 2'),
        (dict(decay_rate=0.9, custom_keys=dict(head=dict(lr_mult='2'))), "got {'lr_mult': '2'}"),
    ],
)
def test_bad_options_are_refused(paramwise, message):
    with pytest.raises(ValueError, match=message):
        groups(model('atto'), **paramwise)


class Trainable(Model):
    """Something that a Runner can train."""

    def train_step(self, data, optim_wrapper):
        maps = self.backbone(torch.stack(data))
        loss = sum(map_.square().mean() for map_ in maps)
        optim_wrapper.update_params(loss)
        return dict(loss=loss)


def test_training_logs_the_groups_and_both_ends_of_the_rates(tmp_path, miniature):
    runner = Runner(
        model=Trainable(ConvNeXt(miniature)),
        work_dir=str(tmp_path),
        experiment_name=f'layer_decay_{tmp_path.name}',
        train_dataloader=dict(
            dataset=[torch.zeros(3, 32, 32)] * 2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=1,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
            constructor='ConvNeXtLayerDecayConstructor',
            paramwise_cfg=dict(
                decay_rate=0.5,
                custom_keys={key: dict(lr_mult=0.1) for key in ('norm', 'neck', 'head')},
            ),
        ),
        custom_hooks=[dict(type='LearningRateRangeHook')],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
    )
    runner.train()
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'layer_0_decay' in log and '0.03125' in log
    # The first stage's norm; and the last stage, as no group trains at the base rate.
    assert 'lowest_lr: 6.2500e-06' in log
    assert 'highest_lr: 5.0000e-04' in log
