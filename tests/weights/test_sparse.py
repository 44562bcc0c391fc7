"""Checkpoints of one's own pretraining of V2, whose encoder runs on sparse tensors."""

import re

import pytest
import torch
from support.weights import holds, random_state, trunk

from convnext_backbones import ConvNeXt, ConvNeXtClassifier, load_weights
from convnext_backbones.weights.sparse import is_sparse, to_dense
from tools import convert_weights


def sparse_checkpoint(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the authors' main_pretrain.py saves for an encoder with these weights.

    Position n of a kernel is row n % k and column n // k of the dense one.
    """
    found = {'mask_token': torch.rand(1, 512, 1, 1)}
    for name, tensor in state.items():
        module, parameter = name.rsplit('.', 1)
        is_stem = module.startswith('downsample_layers.0.')
        if tensor.dim() == 4 and not is_stem:
            k = tensor.shape[-1]
            positions = [tensor[:, :, n % k, n // k].t() for n in range(k * k)]
            tensor, parameter = torch.stack(positions), 'kernel'
            if module.endswith('dwconv'):
                tensor = tensor[:, 0]
        elif not is_stem and re.search(r'(norm|layers\.\d\.0)$', module):
            module += '.ln'
        elif re.search(r'pwconv\d$', module):
            module += '.linear'
        elif '.grn' in module:
            tensor = tensor.reshape(1, -1)
        if parameter == 'bias' and re.search(r'dwconv$|layers\.[123]\.1$', module):
            tensor = tensor.reshape(1, -1)
        found[f'encoder.{module}.{parameter}'] = tensor
    return found | {
        'proj.weight': torch.rand(512, 32, 1, 1),
        'proj.bias': torch.rand(512),
        'decoder.0.dwconv.weight': torch.rand(512, 1, 7, 7),
        'decoder.0.grn.gamma': torch.rand(1, 1, 1, 2048),
        'pred.weight': torch.rand(3072, 512, 1, 1),
    }


@pytest.fixture
def encoder(miniature):
    return trunk(random_state(ConvNeXtClassifier(miniature, use_grn=True)))


def test_the_encoder_starts_a_backbone(encoder, miniature, save):
    checkpoint = sparse_checkpoint(encoder)
    assert checkpoint['encoder.stages.0.0.dwconv.kernel'].shape == (49, 8)
    assert checkpoint['encoder.downsample_layers.1.1.kernel'].shape == (4, 8, 16)
    backbone = ConvNeXt(miniature, use_grn=True)
    report = load_weights(backbone, save({'model': checkpoint, 'epoch': 3, 'scaler': {}}))
    assert holds(backbone, encoder)
    assert report.layout == 'sparse' and len(report.loaded) == len(encoder)
    assert len(report.dropped) == 6 and 'mask_token' in report.dropped
    assert not (report.unexpected or report.surprises)


def test_it_becomes_a_file_of_any_layout(encoder, miniature, save, tmp_path):
    path = save({'model': sparse_checkpoint(encoder)})
    options = ['--to', 'timm', '--drop']
    convert_weights.main([str(path), str(tmp_path / 'timm.pth'), *options])
    backbone = ConvNeXt(miniature, use_grn=True)
    report = load_weights(backbone, tmp_path / 'timm.pth')
    assert holds(backbone, encoder) and report.layout == 'timm'


def test_the_published_files_of_the_pretraining_are_dense(encoder, miniature, save):
    assert not is_sparse(encoder)
    for shape in ((-1,), (1, -1), (1, 1, 1, -1)):
        file = {
            name: tensor.reshape(shape) if '.grn.' in name else tensor
            for name, tensor in encoder.items()
        }
        backbone = ConvNeXt(miniature, use_grn=True)
        report = load_weights(backbone, save({'model': file}))
        assert holds(backbone, encoder) and report.layout == 'official'
        assert len(report.missing) == 8 and not report.surprises


@pytest.mark.parametrize('shape', [(48, 8), (4, 3, 8, 1), ()])
def test_a_kernel_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r'expected the kernel .*dwconv.kernel.*\(k \* k'):
        to_dense({'encoder.stages.0.0.dwconv.kernel': torch.zeros(shape)})
