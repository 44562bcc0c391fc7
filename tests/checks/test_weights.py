"""The check of weights to start from."""

import pytest
import torch
from mmengine.registry import DefaultScope

from convnext_backbones import ConvNeXt
from convnext_backbones.checks.findings import ERROR, WARNING
from convnext_backbones.checks.weights import check_weights
from convnext_backbones.weights.published import find_published
from convnext_backbones.weights.zoo import local_file


def test_weights_to_be_downloaded_are_left_alone(no_weights_here, monkeypatch, tmp_path):
    url = 'https://example.org/model.pth'
    assert local_file('convnext_tiny_1k_224') is local_file(url) is None
    assert local_file('torchvision://resnet50') is None
    assert not (tmp_path / 'cache').exists()
    monkeypatch.setenv('CONVNEXT_BACKBONES_OFFLINE', '1')
    with pytest.raises(FileNotFoundError, match='CONVNEXT_BACKBONES_OFFLINE is set'):
        local_file('convnext_tiny_1k_224')
    monkeypatch.setenv('CONVNEXT_BACKBONES_WEIGHTS', str(tmp_path))
    (tmp_path / 'convnext_tiny_1k_224.pth').touch()
    assert local_file('convnext_tiny_1k_224') == tmp_path / 'convnext_tiny_1k_224.pth'


def test_names_of_the_hub(det, model, no_weights_here, monkeypatch):
    def start(name: str) -> list:
        det.model.backbone.init_cfg = dict(type='PretrainedConvNeXt', checkpoint=name)
        return [*check_weights(det, model, thorough=False)]

    assert start('org/repo/file.bin') == []
    (finding,) = start('convnextv2_bas.fcmae')
    assert finding.level == ERROR and "'timm/convnextv2_base.fcmae'" in finding.what
    (finding,) = start('convnext_zepto_rms.ra4_e3600_r224_in1k')
    assert finding.level == ERROR and 'its norms have no bias' in finding.what
    monkeypatch.setenv('CONVNEXT_BACKBONES_OFFLINE', '1')
    (finding,) = start('timm/convnextv2_base.fcmae')
    assert finding.level == ERROR and 'OFFLINE is set' in finding.what


@pytest.mark.parametrize(
    ('name', 'options', 'fix'),
    [
        ('timm/convnextv2_base.fcmae', dict(arch='base'), "arch='base', use_grn=True"),
        ('convnext_tiny_1k_224', dict(arch='tiny', use_grn=True), "arch='tiny'"),
        ('timm/convnext_atto_ols.a2_in1k', dict(arch='atto'), "stem_type='overlap_tiered'"),
        ('timm/convnext_xxlarge.clip_laion2b_soup', dict(arch='xlarge'), "arch='xxlarge'"),
    ],
)
def test_options_of_weights_that_are_not_here_yet(det, no_weights_here, name, options, fix):
    def start(strict: bool = True, **options) -> list:
        det.model.backbone = dict(type='ConvNeXt', **options)
        init = dict(type='PretrainedConvNeXt', checkpoint=name, strict=strict)
        det.model.backbone.init_cfg = init
        with torch.device('meta'):
            model = torch.nn.ModuleDict(dict(backbone=ConvNeXt(**options)))
        return [*check_weights(det, model, thorough=False)]

    (finding,) = start(**options)
    assert finding.level == ERROR and fix in finding.fix and 'another network' in finding.what
    assert not start(strict=False, **options)
    assert not start(**find_published(name).backbone_options())


def test_pretrained_weights_that_do_not_fit(det, model, tmp_path, no_weights_here):
    arch = dict(det.model.backbone.arch, dims=[8, 16, 24, 40])
    torch.save(ConvNeXt(**arch).state_dict(), tmp_path / 'other.pth')
    torch.save(ConvNeXt(**det.model.backbone.arch).state_dict(), tmp_path / 'same.pth')

    def start(name: str, thorough: bool = True, **options) -> list:
        det.model.backbone.init_cfg = dict(
            type='PretrainedConvNeXt', checkpoint=str(tmp_path / name), **options
        )
        with DefaultScope.overwrite_default_scope('mmdet'):
            return [*check_weights(det, model, thorough)]

    assert start('same.pth') == start('other.pth', thorough=False) == []
    (finding,) = start('other.pth')
    assert (finding.level, finding.where) == (ERROR, 'model.backbone.init_cfg')
    assert 'dims (8, 16, 24, 40)' in finding.what
    (finding,) = start('other.pth', strict=False)
    assert finding.level == WARNING and 'of another shape' in finding.what
    (finding,) = start('gone.pth', thorough=False)
    assert finding.level == ERROR and 'gone.pth' in finding.what


def test_weights_that_mmengine_would_leave_out(det, model, tmp_path):
    shapes = {name: place.shape for name, place in model.state_dict().items()}
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}

    def start(tensors: dict) -> list:
        torch.save(dict(state_dict=tensors), tmp_path / 'start.pth')
        det.load_from = str(tmp_path / 'start.pth')
        return [*check_weights(det, model, thorough=False)]

    assert start({f'module.{name}': tensor for name, tensor in zeros.items()}) == []
    (finding,) = start({f'model.{name}': tensor for name, tensor in zeros.items()})
    assert (finding.level, finding.where) == (ERROR, 'load_from')
    assert 'start from scratch' in finding.what
    head = 'roi_head.bbox_head.fc_cls.weight'
    (finding,) = start(dict(zeros, **{head: torch.zeros(81, 32)}))
    assert finding.level == WARNING and finding.examples == (head,)
    det.load_from = str(tmp_path / 'gone.pth')
    (finding,) = check_weights(det, model, thorough=False)
    assert (finding.level, finding.where) == (ERROR, 'load_from')
    for name in ('convnext_tiny_1k_224', 'timm/convnextv2_base.fcmae'):
        det.load_from = name
        (finding,) = check_weights(det, model, thorough=False)
        assert finding.level == ERROR and 'mmengine looks up none' in finding.what
        assert 'PretrainedConvNeXt' in finding.fix
    # The same through an init_cfg of mmengine, and a prefix.
    det.load_from = None
    torch.save({f'net.backbone.{n}': t for n, t in zeros.items()}, tmp_path / 'start.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'start.pth'), prefix='net')
    det.model.neck.init_cfg = init
    (finding,) = check_weights(det, model, thorough=False)
    assert (finding.level, finding.where) == (ERROR, 'model.neck.init_cfg')
    init['prefix'] = 'net.backbone.neck.'
    det.model.neck.init_cfg = init
    assert [*check_weights(det, model, thorough=False)] == []
