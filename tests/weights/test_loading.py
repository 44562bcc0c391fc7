"""Weights of every origin get into the models whole, or the error says what is wrong."""

from pathlib import Path

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import WEIGHT_INITIALIZERS
from support.weights import broken, holds, norms, random_state, trunk
from torch import nn

from convnext_backbones import ConvNeXt, ConvNeXtClassifier, PretrainedConvNeXt, load_weights
from convnext_backbones.weights.layouts import EXPORTS
from convnext_backbones.weights.names import export


def test_an_imagenet_file_of_the_authors_fills_a_backbone(classifier, backbone, save, warnings):
    report = load_weights(backbone, save({'model': classifier}))
    assert holds(backbone, trunk(classifier))
    assert report.layout == 'official' and len(report.loaded) == 9 * 5 + 16
    assert report.missing == [f'norm{i}.{p}' for i in range(4) for p in ('weight', 'bias')]
    assert sorted(report.dropped) == ['head.bias', 'head.weight', 'norm.bias', 'norm.weight']
    assert not (report.unexpected or report.mismatched or report.surprises or report.notes)
    assert all(norm.weight.eq(1).all() and norm.bias.eq(0).all() for norm in norms(backbone))
    assert warnings == []


@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: state,
        lambda state: {'model': state, 'optimizer': {}, 'epoch': 3, 'args': None},
        lambda state: {'state_dict': state, 'meta': {}},
        lambda state: {'module': state},
        lambda state: {'model': {'state_dict': state}},
        lambda state: {f'module.{name}': tensor for name, tensor in state.items()},
        lambda state: {'state_dict': {f'backbone.{name}': t for name, t in state.items()}},
        lambda state: {'state_dict': {f'model.net.{name}': t for name, t in state.items()}},
        lambda state: {f'_orig_mod.{name}': tensor for name, tensor in state.items()},
    ],
)
def test_containers_and_prefixes_are_unwrapped(wrap, classifier, backbone, save):
    report = load_weights(backbone, save(wrap(classifier)))
    assert holds(backbone, trunk(classifier)) and not report.surprises


@pytest.mark.parametrize('suffix', ['pth', 'pt', 'bin', 'safetensors', 'anything'])
def test_suffixes(suffix, classifier, backbone, save, tmp_path):
    if suffix == 'safetensors':
        from safetensors.torch import save_file

        path = tmp_path / 'weights.safetensors'
        save_file(classifier, path)
    else:
        path = save(classifier, f'weights.{suffix}')
    load_weights(backbone, path)
    assert holds(backbone, trunk(classifier))


def test_a_file_in_the_format_before_torch_1_6(classifier, backbone, tmp_path):
    path = tmp_path / 'old.pth'
    torch.save(classifier, path, _use_new_zipfile_serialization=False)
    load_weights(backbone, path)
    assert holds(backbone, trunk(classifier))


@pytest.mark.parametrize(
    ('layout', 'use_grn'),
    [
        (name, use_grn)
        for name, layout in EXPORTS.items()
        for use_grn in (False, True)
        if name != 'keras' and (not use_grn or 'grn' in layout.parts)
    ],
)
@pytest.mark.parametrize('kind', [ConvNeXt, ConvNeXtClassifier])
def test_every_layout_into_backbone_and_classifier(layout, kind, use_grn, miniature, save):
    options = dict(use_grn=use_grn)
    if kind is ConvNeXtClassifier:
        has_head = layout not in ('dinov3', 'meta')
        options |= dict(num_classes=9 if has_head else 0, head_norm_first=layout == 'timm_hnf')
    model = kind(miniature, **options)
    state = random_state(model)
    exported, homeless = export(state, EXPORTS[layout])
    report = load_weights(model, save(exported))
    # Without the final norm, which is in it twice, Meta's file is like the authors'.
    names = {'timm_hnf': 'timm', 'meta': 'official' if kind is ConvNeXt else 'meta'}
    assert report.layout == names.get(layout, layout) and report.missing == homeless
    assert not report.surprises
    assert holds(model, {name: state[name] for name in report.loaded})
    assert len(report.loaded) + len(homeless) == len(state)


def test_a_trained_backbone_keeps_its_output_norms(miniature, save):
    state = random_state(ConvNeXt(miniature))
    backbone = ConvNeXt(miniature)
    load_weights(backbone, save(state))
    assert holds(backbone, state)


@pytest.mark.parametrize('out_indices', [(0, 1), (1, 3)])
@pytest.mark.parametrize('kind', [ConvNeXt, ConvNeXtClassifier])
def test_stages_and_norms_that_are_not_built_are_dropped(out_indices, kind, miniature, save):
    state = random_state(kind(miniature))
    backbone = ConvNeXt(miniature, out_indices=out_indices)
    report = load_weights(backbone, save(state))
    assert not report.surprises
    assert len(report.loaded) + len(report.dropped) == len(state)
    assert holds(backbone, {name: state[name] for name in report.loaded})


def test_a_wrapped_model_is_looked_through(classifier, backbone, save):
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = backbone
    load_weights(wrapper, save(classifier))
    assert holds(backbone, trunk(classifier))


@pytest.mark.parametrize('container', ['model_ema', 'state_dict_ema'])
def test_averaged_weights_on_request(container, classifier, backbone, save):
    other = {name: tensor + 1 for name, tensor in classifier.items()}
    path = save({'model': classifier, container: other})
    load_weights(backbone, path, ema=True)
    assert holds(backbone, trunk(other))
    load_weights(backbone, path)
    assert holds(backbone, trunk(classifier))


def test_mmengine_writes_averaged_weights_as_the_ordinary_ones(classifier, backbone, save):
    other = {f'module.{name}': tensor + 1 for name, tensor in classifier.items()}
    load_weights(backbone, save({'state_dict': classifier, 'ema_state_dict': other}), ema=True)
    assert holds(backbone, trunk(classifier))


def test_one_of_several_networks(classifier, backbone, save):
    path = save(
        {f'teacher.backbone.{name}': tensor for name, tensor in classifier.items()}
        | {f'student.backbone.{name}': tensor + 1 for name, tensor in classifier.items()}
    )
    with pytest.raises(ValueError, match="found 2, at the prefixes 'teacher.*student"):
        load_weights(backbone, path)
    report = load_weights(backbone, path, prefix='teacher.backbone.')
    assert holds(backbone, trunk(classifier)) and not report.surprises
    assert len(report.dropped) == 4 + len(classifier)
    with pytest.raises(ValueError, match="at the prefix 'teacher.'"):
        load_weights(backbone, path, prefix='teacher.')


@pytest.mark.parametrize(
    ('kind', 'message', 'loaded'),
    [
        ('missing', r'1 missing \(stages.2.1.pwconv1.weight\)', 60),
        ('unexpected', r'1 unexpected \(stages.2.1.extra.weight\)', 61),
        ('shape', r'1 of another shape .*\(2, 2\) of torch.float32 in the file', 60),
        ('type', r'1 of another shape or type .*torch.int64', 60),
        ('sparse', r'1 of another shape or type', 60),
        ('nested', r'1 missing', 60),
        ('meta', r'1 of another shape or type', 60),
        ('nan', r'1 with NaN or infinity \(stages.2.1.pwconv1.weight\)', 61),
        ('inf', r'1 with NaN or infinity', 61),
        ('some norms', r'7 missing \(norm0.bias, norm1.weight, norm1.bias and 4 more\)', 62),
        ('no gamma', r'5 missing .*layer_scale_init_value=0', 56),
    ],
)
def test_what_does_not_fit_is_an_error(kind, message, loaded, classifier, backbone, save, warnings):
    path = save(broken(kind, classifier))
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=f'cannot load .*weights.pth.*{message}') as error:
        load_weights(backbone, path)
    assert '\n' not in str(error.value) and f'strict=False loads the {loaded}' in str(error.value)
    assert holds(backbone, before), 'a failed load has changed the model'
    assert warnings == []
    report = load_weights(backbone, path, strict=False)
    assert len(report.loaded) == loaded and report.surprises
    assert len(warnings) == 1 and f'{loaded} loaded' in warnings[0]


def test_no_averaged_weights(classifier, backbone, save):
    with pytest.raises(ValueError, match='expected averaged weights .*found the entries model'):
        load_weights(backbone, save({'model': classifier}), ema=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='Linux counts memory there')
@pytest.mark.parametrize(
    ('dtype', 'zipped'), [('float32', True), ('float16', True), ('float32', False)]
)
def test_the_largest_file_is_not_held_in_memory_twice(dtype, zipped, tmp_path, run_python):
    with torch.device('meta'):
        state = ConvNeXtClassifier('xlarge', num_classes=21841).state_dict()
    dtype = getattr(torch, dtype)
    state = {name: torch.ones(tensor.shape, dtype=dtype) for name, tensor in state.items()}
    path = tmp_path / 'weights.pth'
    torch.save({'model': state}, path, _use_new_zipfile_serialization=zipped)
    peaks = run_python(
        """
        import re, torch
        from convnext_backbones import ConvNeXt, load_weights

        def peak():
            return re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]

        with torch.device('meta'):
            model = ConvNeXt('xlarge')
        model.to_empty(device='cpu')
        for parameter in model.parameters():
            parameter.data.fill_(1)
        before = peak()
        load_weights(model, 'weights.pth')
        print('kilobytes:', before, peak())
        """,
        cwd=tmp_path,
    )
    before, after = map(int, peaks.splitlines()[-1].split()[1:])
    assert (after - before) * 1024 < 1.3 * path.stat().st_size


# --- init_cfg -------------------------------------------------------------------------------


def test_the_initializer_reads_when_weights_are_initialized(published, miniature):
    model = ConvNeXt(
        miniature, init_cfg=dict(type='PretrainedConvNeXt', checkpoint='convnext_tiny_1k_224')
    )
    assert not holds(model, trunk(published))
    model.init_weights()
    assert holds(model, trunk(published))


def test_weights_with_an_obstacle_are_refused_before_they_are_fetched(miniature, published):
    with pytest.raises(ValueError, match='its norms have no bias'):
        load_weights(ConvNeXt(miniature), 'convnext_zepto_rms.ra4_e3600_r224_in1k')


def test_the_initializer_fails_where_the_weights_do(published, miniature):
    init_cfg = dict(type='PretrainedConvNeXt', checkpoint='convnext_tiny_22k_224')
    model = ConvNeXt(miniature, init_cfg=init_cfg)  # nothing is looked for yet
    with pytest.raises(FileNotFoundError, match='convnext_tiny_22k_224'):
        model.init_weights()


def test_the_options_of_the_initializer(miniature, classifier, save):
    path = save({'model_ema': {f'a.{name}': t for name, t in classifier.items()}})
    options = dict(checkpoint=str(path), ema=True, prefix='a.', strict=False)
    model = ConvNeXt(miniature)
    WEIGHT_INITIALIZERS.build(dict(type='PretrainedConvNeXt', **options))(model)
    assert holds(model, trunk(classifier))


def test_no_other_initializer_may_follow(published, miniature):
    ours = dict(type=PretrainedConvNeXt, checkpoint='convnext_tiny_1k_224')
    other = dict(type='Constant', layer='Conv2d', val=0)
    model = ConvNeXt(miniature, init_cfg=[other, ours])
    model.init_weights()
    assert holds(model, trunk(published))
    with pytest.raises(ValueError, match="at the end of init_cfg, got 'Constant'"):
        ConvNeXt(miniature, init_cfg=[ours, other]).init_weights()


def test_the_initializer_is_for_backbones(published):
    with pytest.raises(ValueError, match='in the init_cfg of a ConvNeXt, got it in that of Linear'):
        PretrainedConvNeXt('convnext_tiny_1k_224')(nn.Linear(1, 1))
