"""Weights of every origin get into the models whole, or the error says what is wrong."""

import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DATASETS, MODELS, WEIGHT_INITIALIZERS, init_default_scope
from support.manifests import MANIFESTS
from support.peer_models import PEERS, TOLERANCE, compare_backbone_files, compare_classifier_files
from torch import nn

from convnext_backbones import (
    PUBLISHED,
    VARIANTS,
    ConvNeXt,
    ConvNeXtClassifier,
    PretrainedConvNeXt,
    load_weights,
)
from convnext_backbones.engine.runner import build_runner
from convnext_backbones.io.download import CACHE_VARIABLE, FOLDERS_VARIABLE, OFFLINE_VARIABLE
from convnext_backbones.weights.layouts import LAYOUTS
from convnext_backbones.weights.matching import STEM, adapt_stem
from convnext_backbones.weights.names import export

ROOT = Path(__file__).parents[1]


def random_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in module.state_dict().items()
    }


@pytest.fixture
def classifier(miniature):
    """The weights of an ImageNet file of the authors."""
    return random_state(ConvNeXtClassifier(miniature))


@pytest.fixture
def backbone(miniature):
    return ConvNeXt(miniature)


@pytest.fixture
def save(tmp_path):
    """Write a checkpoint and return its path."""

    def save(checkpoint, name: str = 'weights.pth'):
        torch.save(checkpoint, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def warnings():
    """What is logged as a warning, a string per record."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def holds(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in state.items())


def trunk(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t for name, t in state.items() if not name.startswith(('norm', 'head'))}


# --- the expected cases are silent ----------------------------------------------------------


def test_an_imagenet_file_of_the_authors_fills_a_backbone(classifier, backbone, save, warnings):
    report = load_weights(backbone, save({'model': classifier}))
    assert holds(backbone, trunk(classifier))
    assert report.layout == 'official' and len(report.loaded) == 9 * 5 + 16
    assert report.missing == [f'norm{i}.{p}' for i in range(4) for p in ('weight', 'bias')]
    assert sorted(report.dropped) == ['head.bias', 'head.weight', 'norm.bias', 'norm.weight']
    assert not (report.unexpected or report.mismatched or report.surprises or report.notes)
    assert all(norm.weight.eq(1).all() and norm.bias.eq(0).all() for norm in norms(backbone))
    assert warnings == []


def norms(backbone: ConvNeXt) -> list[nn.Module]:
    return [getattr(backbone, f'norm{i}') for i in backbone.out_indices]


def test_the_report_counts_per_stage(classifier, backbone, save):
    report = load_weights(backbone, save(classifier))
    assert report.per_stage() == {
        'stem': (4, 0),
        'stage 0': (9, 0),
        'stage 1': (13, 0),
        'stage 2': (22, 0),
        'stage 3': (13, 0),
        'output norms': (0, 8),
    }
    text = str(report)
    assert '61 loaded, 8 missing, 4 dropped' in text and 'output norms 0 of 8' in text


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


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('kind', [ConvNeXt, ConvNeXtClassifier])
def test_every_layout_into_backbone_and_classifier(layout, kind, miniature, save):
    model = kind(miniature)
    state = random_state(model)
    exported, homeless = export(state, LAYOUTS[layout])
    report = load_weights(model, save(exported))
    assert report.layout == layout and report.missing == homeless and not report.surprises
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


# --- what is done on purpose is said --------------------------------------------------------


def test_the_norm_after_pooling_is_not_norm3(classifier, backbone, save, warnings):
    exported, _ = export(classifier, LAYOUTS['mmpretrain'])
    report = load_weights(backbone, save({'state_dict': exported}))
    assert len(report.missing) == 8 and backbone.norm3.weight.eq(1).all()
    assert 'backbone.norm3.weight' in report.dropped and not report.surprises
    assert len(warnings) == 1 and 'norm of a classifier after pooling' in warnings[0]


@pytest.mark.parametrize(
    ('channels', 'how'), [(1, 'averaged'), (2, 'averaged'), (4, 'repeated'), (6, 'repeated')]
)
def test_the_stem_is_adapted_to_other_channels(
    channels, how, classifier, miniature, save, warnings
):
    backbone = ConvNeXt(miniature, in_chans=channels)
    report = load_weights(backbone, save(classifier))
    rgb = classifier['downsample_layers.0.0.weight']
    ours = backbone.downsample_layers[0][0].weight
    assert report.adapted == ['downsample_layers.0.0.weight'] and not report.surprises
    assert len(warnings) == 1 and how in warnings[0]
    if channels % 3:
        expected = rgb.mean(1) if how == 'averaged' else rgb[:, 0]
        assert torch.allclose(ours[:, -1], expected * 3 / channels)
    if channels != 4:  # of a gray image, the response stays the same
        assert torch.allclose(ours.sum(1), rgb.sum(1), atol=1e-6)


def test_adapted_stems_repeat_in_turn():
    weight = torch.arange(3.0).reshape(1, 3, 1, 1)
    assert adapt_stem(weight, 6).flatten().tolist() == [0, 0.5, 1, 0, 0.5, 1]
    assert adapt_stem(weight, 1).flatten().tolist() == [3]


@pytest.mark.parametrize('dtype', [torch.int64, torch.float8_e4m3fn])
def test_a_stem_of_another_type_is_adapted_or_refused(dtype, classifier, miniature, save):
    net = ConvNeXt(miniature, in_chans=1)
    path = save(classifier | {STEM: classifier[STEM].to(dtype)})
    if dtype.is_floating_point:
        assert load_weights(net, path).adapted == [STEM]
    else:
        with pytest.raises(ValueError, match='1 of another shape or type.*torch.int64'):
            load_weights(net, path)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(dtype, classifier, backbone, save, warnings):
    state = {name: tensor.to(dtype) for name, tensor in classifier.items()}
    report = load_weights(backbone, save(state))
    assert holds(backbone, {name: tensor.float() for name, tensor in trunk(state).items()})
    assert len(report.converted) == 61
    assert len(warnings) == 1 and f'from {dtype} to torch.float32' in warnings[0]


# --- anything else is an error --------------------------------------------------------------


def broken(kind: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A classifier's weights with one thing wrong."""
    name = 'stages.2.1.pwconv1.weight'
    changes = {
        'missing': lambda: state.pop(name),
        'unexpected': lambda: state.update({'stages.2.1.extra.weight': torch.ones(1)}),
        'shape': lambda: state.update({name: torch.ones(2, 2)}),
        'type': lambda: state.update({name: state[name].long()}),
        'sparse': lambda: state.update({name: state[name].to_sparse()}),
        'nested': lambda: state.update({name: torch.nested.nested_tensor([state[name]])}),
        'meta': lambda: state.update({name: state[name].to('meta')}),
        'nan': lambda: state[name].view(-1)[5:6].fill_(math.nan),
        'inf': lambda: state[name].view(-1)[5:6].fill_(math.inf),
        'some norms': lambda: state.update({'norm0.weight': torch.ones(8)}),
        'no gamma': lambda: [state.pop(key) for key in [*state] if key.endswith('gamma')],
    }
    changes[kind]()
    return state


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
        ('some norms', r'7 missing \(norm0.bias, norm1.weight, norm1.bias, \.\.\.\)', 62),
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


def test_overflow_of_a_wider_type_is_noticed(classifier, miniature, save):
    name = 'stages.0.0.gamma'
    classifier[name] = torch.full((8,), 1e300, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf'1 with NaN or infinity \({name}\)'):
        load_weights(ConvNeXt(miniature), save(classifier))


def test_a_model_without_layer_scale(classifier, miniature, save):
    backbone = ConvNeXt(miniature, layer_scale_init_value=0)
    with pytest.raises(ValueError, match='5 unexpected .*layer_scale_init_value=1.0'):
        load_weights(backbone, save(classifier))


def test_another_size_is_named(miniature, save):
    with torch.device('meta'):
        femto = ConvNeXtClassifier('femto').state_dict()
    path = save({name: torch.ones(tensor.shape) for name, tensor in femto.items()})
    with pytest.raises(
        ValueError, match=r"nothing of .* \(arch='femto'\), the model \(1, 1, 2, 1\)"
    ):
        load_weights(ConvNeXt(miniature), path, strict=False)
    narrow = ConvNeXt(depths=miniature['depths'], dims=VARIANTS['femto'].dims)
    with pytest.raises(ValueError, match=r"63 unexpected .*\(arch='femto'\)"):
        load_weights(narrow, path)


def test_another_number_of_classes(classifier, miniature, save):
    with pytest.raises(ValueError, match='2 of another shape .*head.weight'):
        load_weights(ConvNeXtClassifier(miniature, num_classes=7), save(classifier))


def test_a_backbone_does_not_fill_a_classifier(miniature, save):
    path = save(random_state(ConvNeXt(miniature)))
    with pytest.raises(ValueError, match='4 missing .*8 unexpected'):
        load_weights(ConvNeXtClassifier(miniature), path)


@pytest.mark.parametrize(
    ('names', 'cause'),
    [
        (['conv1.weight', 'layer1.0.conv1.weight'], 'ResNet'),
        (['patch_embed.proj.weight', 'blocks.0.attn.qkv.weight'], 'vision transformer'),
        (['stages.0.0.grn.gamma'], 'ConvNeXt V2'),
        (['head.weight', 'head.bias'], 'a part of the network only'),
    ],
)
@pytest.mark.parametrize('strict', [True, False])
def test_no_convnext_is_always_an_error(names, cause, strict, backbone, save):
    path = save({name: torch.ones(1) for name in names})
    with pytest.raises(ValueError, match=f'found no ConvNeXt in .*{names[0]}.*{cause}'):
        load_weights(backbone, path, strict=strict)


def test_no_averaged_weights(classifier, backbone, save):
    with pytest.raises(ValueError, match='expected averaged weights .*found the entries model'):
        load_weights(backbone, save({'model': classifier}), ema=True)


def test_models_that_are_not_ours(classifier, save):
    path = save(classifier)
    with pytest.raises(TypeError, match='expected a ConvNeXt.*got Linear'):
        load_weights(nn.Linear(1, 1), path)


def test_a_model_on_the_meta_device(classifier, miniature, save):
    with torch.device('meta'):
        backbone = ConvNeXt(miniature)
    with pytest.raises(ValueError, match='meta device.*to_empty'):
        load_weights(backbone, save(classifier))


def test_every_tensor_is_accounted_for(classifier, miniature, save):
    state = broken('missing', broken('nan', broken('unexpected', classifier)))
    state['norm2.weight'] = torch.ones(3)
    backbone = ConvNeXt(miniature, in_chans=4)
    report = load_weights(backbone, save(state), strict=False)
    fates = report.loaded + report.mismatched + report.unexpected + report.dropped
    assert len(fates) == len(set(fates)) == len(state)
    ours = report.loaded + report.mismatched + report.missing
    assert sorted(ours) == sorted(backbone.state_dict())


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


# --- names, and init_cfg --------------------------------------------------------------------


def test_the_table_of_published_files():
    assert len(PUBLISHED) == 24 + 13
    for name, weights in PUBLISHED.items():
        assert weights.url.startswith('https://dl.fbaipublicfiles.com/convnext/')
        assert weights.url.endswith(f'/{name}.pth')
        assert weights.size is None and weights.sha256 is None
    assert set(MANIFESTS) < set(PUBLISHED)
    assert '/coco/' in PUBLISHED['mask_rcnn_convnext_tiny_1k_3x'].url


@pytest.fixture
def published(tmp_path, monkeypatch, miniature):
    """A machine without a network, on which one published file was put by hand."""
    monkeypatch.setenv(OFFLINE_VARIABLE, '1')
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / 'cache'))
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    state = random_state(ConvNeXtClassifier(miniature))
    torch.save({'model': state}, tmp_path / 'convnext_tiny_1k_224.pth')
    return state


def test_a_published_name_is_found_in_the_folder(published, backbone):
    load_weights(backbone, 'convnext_tiny_1k_224')
    assert holds(backbone, trunk(published))


def test_a_published_name_that_is_not_there(published, backbone):
    with pytest.raises(FileNotFoundError, match=r"'convnext_base_22k_224.pth'.*https://dl.fb"):
        load_weights(backbone, 'convnext_base_22k_224')


@pytest.mark.parametrize('name', ['convnext_tiny_224', 'convnext_tiny_1k_224.pth'])
def test_a_name_that_is_none(name, backbone):
    with pytest.raises(FileNotFoundError, match="did you mean 'convnext_tiny_1k_224'"):
        load_weights(backbone, name)


def test_the_initializer_reads_when_weights_are_initialized(published, miniature):
    model = ConvNeXt(
        miniature, init_cfg=dict(type='PretrainedConvNeXt', checkpoint='convnext_tiny_1k_224')
    )
    assert not holds(model, trunk(published))
    model.init_weights()
    assert holds(model, trunk(published))


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


# --- whole detectors and segmentors ---------------------------------------------------------


class Detector(nn.Module):
    """What load_weights sees of a detector: a backbone and other parts."""

    def __init__(self, arch) -> None:
        super().__init__()
        self.backbone = ConvNeXt(arch)
        self.neck = nn.Conv2d(32, 4, 1)
        self.bbox_head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


@pytest.fixture
def detector(miniature):
    return random_state(Detector(miniature))


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.'])
@pytest.mark.parametrize('layout', ['official', 'mmpretrain'])
def test_a_whole_detector(layout, prefix, detector, miniature, save):
    names = {name[9:]: t for name, t in detector.items() if name.startswith('backbone.')}
    file, _ = export(names, LAYOUTS[layout], inside=True)
    file |= {name: t for name, t in detector.items() if not name.startswith('backbone.')}
    path = save({'state_dict': {prefix + name: tensor for name, tensor in file.items()}})
    model = Detector(miniature)
    report = load_weights(model, path)
    assert holds(model, detector) and len(report.loaded) == len(detector)
    assert not (report.missing or report.unexpected or report.dropped or report.notes)
    assert report.per_stage()['neck'] == (2, 0)

    backbone = ConvNeXt(miniature)
    report = load_weights(backbone, path)
    assert holds(backbone, names) and not report.surprises and not report.missing
    assert len(report.dropped) == len(detector) - len(names)


def test_one_of_several_detectors(detector, miniature, save):
    file = {f'teacher.{name}': tensor for name, tensor in detector.items()}
    file |= {
        f'student.{name}': tensor for name, tensor in random_state(Detector(miniature)).items()
    }
    model = Detector(miniature)
    report = load_weights(model, save(file), prefix='teacher.backbone.')
    assert holds(model, detector) and len(report.dropped) == len(detector)


def test_a_detector_with_other_heads_is_an_error(detector, miniature, save):
    detector.pop('neck.weight')
    detector['head.weight'] = torch.ones(1)
    message = r'1 missing \(neck.weight\); 1 unexpected \(head.weight\)'
    with pytest.raises(ValueError, match=message):
        load_weights(Detector(miniature), save(detector))


def test_a_detector_needs_the_output_norms(detector, miniature, save):
    for i in range(4):
        detector.pop(f'backbone.norm{i}.weight')
    with pytest.raises(ValueError, match='4 missing'):
        load_weights(Detector(miniature), save(detector))


def test_a_backbone_does_not_fill_a_detector(classifier, miniature, save):
    with pytest.raises(ValueError, match='holds a backbone only, load it into model.backbone'):
        load_weights(Detector(miniature), save(classifier))


def test_heads_alone_are_nothing(detector, miniature, save):
    other = random_state(ConvNeXt(depths=miniature['depths'], dims=(10, 20, 30, 40)))
    file = {f'backbone.{name}': tensor for name, tensor in other.items()}
    file |= {name: t for name, t in detector.items() if not name.startswith('backbone.')}
    with pytest.raises(ValueError, match='nothing of .* fits into Detector'):
        load_weights(Detector(miniature), save(file), strict=False)


def published_config(manifest) -> Config:
    cfg = Config.fromfile(ROOT / f'configs/{manifest.config}.py')
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('name', MANIFESTS)
def test_our_models_have_the_tensors_of_the_authors_files(name):
    manifest = MANIFESTS[name]
    with torch.device('meta'):
        model = MODELS.build(published_config(manifest).model)
    assert {key: tuple(t.shape) for key, t in model.state_dict().items()} == manifest.shapes
    numbers = sum(
        math.prod(shape)
        for key, shape in manifest.shapes.items()
        if not key.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
    )
    assert round(numbers / 1e6) == manifest.millions, 'the manifest is not that of the paper'


@pytest.fixture(scope='module')
def data_root(tmp_path_factory) -> Path:
    """Sample data, in which the digits are the first classes of COCO and ADE20K."""
    root = tmp_path_factory.mktemp('sample')
    tool = ROOT / 'tools/make_sample_data.py'
    command = [sys.executable, str(tool), str(root), '--train=1', '--val=2', '--size=64']
    subprocess.run(command, check=True, capture_output=True)
    path = root / 'coco/annotations/instances_val.json'
    annotations = json.loads(path.read_text())
    names = DATASETS.get('mmdet.CocoDataset').METAINFO['classes']
    annotations['categories'] = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    path.write_text(json.dumps(annotations))
    return root


@pytest.mark.slow
@pytest.mark.parametrize('name', MANIFESTS)
def test_a_file_like_the_authors_loads_and_is_evaluated(name, data_root, tmp_path):
    """From names and shapes of the manifest, with random weights, to metrics."""
    manifest = MANIFESTS[name]
    state = {}
    for key, shape in manifest.shapes.items():
        if not shape:
            state[key] = torch.tensor(7)
        elif len(shape) > 1:
            state[key] = torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
        else:
            state[key] = torch.rand(shape) + 0.5
    torch.save({'meta': {}, 'state_dict': state}, tmp_path / f'{name}.pth')

    cfg = published_config(manifest)
    cfg.update(work_dir=str(tmp_path), experiment_name=name, launcher='none', visualizer=None)
    loader = cfg.test_dataloader
    loader.update(batch_size=1, num_workers=0, persistent_workers=False)
    resize = next(step for step in loader.dataset.pipeline if step.type == 'Resize')
    resize.scale = (96, 96)
    if cfg.default_scope == 'mmdet':
        loader.dataset.update(
            data_root=f'{data_root}/coco/',
            ann_file='annotations/instances_val.json',
            data_prefix=dict(img='val/'),
        )
        cfg.test_evaluator.ann_file = f'{data_root}/coco/annotations/instances_val.json'
        cfg.model.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
        # However low their scores, some boxes are to be evaluated, and few enough to be fast.
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    else:
        loader.dataset.data_root = f'{data_root}/ade20k'
        cfg.model.test_cfg.mode = 'whole'
    runner = build_runner(cfg)
    report = load_weights(runner.model, tmp_path / f'{name}.pth')
    assert len(report.loaded) == len(manifest.shapes) and holds(runner.model, state)
    assert not (report.missing or report.unexpected or report.mismatched or report.dropped)
    metrics = runner.test()
    keys = ['coco/bbox_mAP', 'coco/segm_mAP'] if cfg.default_scope == 'mmdet' else ['mIoU']
    assert all(0 <= metrics[key] <= 100 for key in keys)


# --- files that other implementations write -------------------------------------------------


def sizes(*fast: str):
    """All variants as parameters, of which only some are not slow."""
    return [
        variant if variant in fast else pytest.param(variant, marks=pytest.mark.slow)
        for variant in VARIANTS
    ]


@pytest.mark.parametrize('variant', sizes('atto'))
@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('transformers', {}),
        ('mmpretrain', {}),
        ('mmpretrain', {'linear_pw_conv': False}),
    ],
)
def test_the_maps_of_a_backbone_equal(name, options, variant, tmp_path):
    report, found = compare_backbone_files(PEERS[name], variant, tmp_path, **options)
    blocks = sum(VARIANTS[variant].depths)
    assert report.layout == name and len(report.loaded) == 9 * blocks + 24
    assert len(report.reshaped) == (2 * blocks if options else 0)
    assert not (report.missing or report.dropped or report.surprises or report.notes)
    assert max(found.outputs) <= TOLERANCE


@pytest.mark.parametrize('variant', sizes('atto'))
@pytest.mark.parametrize('name', ['transformers', 'mmpretrain'])
def test_the_logits_of_a_classifier_equal(name, variant, tmp_path):
    report, found = compare_classifier_files(PEERS[name], variant, tmp_path)
    assert len(report.loaded) == 9 * sum(VARIANTS[variant].depths) + 20
    assert not (report.missing or report.dropped or report.surprises)
    assert max(found.outputs) <= TOLERANCE


@pytest.mark.parametrize('kind', ['ConvNextModel', 'UperNetForSemanticSegmentation'])
@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_other_models_of_transformers(kind, suffix, tmp_path, miniature):
    import transformers

    config = transformers.ConvNextConfig(
        depths=list(miniature['depths']),
        hidden_sizes=list(miniature['dims']),
        out_features=[f'stage{i}' for i in range(1, 5)],
    )
    norms = 0
    if kind.startswith('UperNet'):
        config = transformers.UperNetConfig(
            backbone_config=config, hidden_size=16, auxiliary_in_channels=24
        )
        norms = 8
    theirs = getattr(transformers, kind)(config)
    path = tmp_path / f'model.{suffix}'
    if suffix == 'bin':
        torch.save(theirs.state_dict(), path)
    else:
        theirs.save_pretrained(tmp_path)
    ours = ConvNeXt(miniature)
    report = load_weights(ours, path)
    assert len(report.loaded) == 9 * 5 + 16 + norms and not report.surprises
    assert len(report.loaded) + len(report.dropped) == len(theirs.state_dict())
    block = getattr(theirs, 'backbone', theirs).encoder.stages[2].layers[1]
    assert torch.equal(ours.stages[2][1].pwconv1.weight, block.pwconv1.weight)
    assert torch.equal(ours.stages[2][1].gamma, block.layer_scale_parameter)
