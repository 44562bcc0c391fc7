"""``weights verify`` with timm, open_clip, keras and torchvision, on files that they write.

Not collected by default; in an environment with them, h5py, mmengine, rich and pytest:
`python -m pytest tests/peers/test_verify_origins.py`.
"""

import os

os.environ.setdefault('KERAS_BACKEND', 'torch')

import keras
import open_clip
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from support.peer_models import randomize

from convnext_backbones import VARIANTS, ConvNeXtClassifier
from convnext_backbones.io.download import CACHE_VARIABLE, FOLDERS_VARIABLE, OFFLINE_VARIABLE
from convnext_backbones.weights import verify
from convnext_backbones.weights.layouts import EXPORTS
from convnext_backbones.weights.names import export

SIZES = dict(depths=(1, 1, 2, 1), dims=(16, 32, 48, 64))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(OFFLINE_VARIABLE, '1')
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / 'cache'))
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    return tmp_path


def save_timm(folder, name: str, *, trunk_only: bool = False, **kwargs):
    """The file of timm's repository, of random weights."""
    if kwargs:  # create_model drops what is None
        model = timm.models.convnext.ConvNeXt(**kwargs)
    else:
        model = timm.create_model(name, pretrained=False)
    randomize(model)
    state = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not trunk_only or not name.startswith('head.')
    }
    path = folder / f'timm/{name}/model.safetensors'
    path.parent.mkdir(parents=True)
    save_file(state, path)
    return path


def save_ours(path, layout='official', wrap=True, **options):
    """The file of another project, in its layout."""
    model = ConvNeXtClassifier(**options)
    randomize(model)
    tensors, homeless = export(model.state_dict(), EXPORTS[layout])
    assert not homeless
    torch.save({'model': tensors} if wrap else tensors, path)
    return path


def check(source, project: str, *outputs: str) -> verify.Verification:
    found = verify.verify(str(source))
    assert found.verdict == 'equal', str(found)
    assert found.origin.startswith(f'{project} ')
    assert [*found.differences] == [*outputs]
    assert max(found.differences.values()) <= 1e-5
    return found


# --- timm -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'tag',
    [
        'convnext_atto.d2_in1k',
        'convnext_atto_ols.a2_in1k',
        'convnext_nano_ols.d1h_in1k',
        'convnext_tiny_hnf.a2h_in1k',
        'convnext_tiny.in12k',
        'convnextv2_atto.fcmae_ft_in1k',
    ],
)
def test_classifiers_of_timm(tag, folder):
    save_timm(folder, tag)
    found = check(tag, 'timm', 'last map', 'logits')
    is_imagenet = '_in1k' in tag
    assert len(found.classes) == 5
    assert all(bool(row['name']) == is_imagenet for row in found.classes)
    assert any('ImageNet-1K, from timm' in remark for remark in found.remarks) == is_imagenet


def test_features_of_timm(folder):
    save_timm(folder, 'convnext_tiny.dinov3_lvd1689m')
    found = check('convnext_tiny.dinov3_lvd1689m', 'timm', 'last map', 'pooled features')
    assert not found.classes and found.norm > 0


def test_pretraining_of_timm(folder):
    save_timm(folder, 'convnextv2_atto.fcmae', trunk_only=True)
    check('convnextv2_atto.fcmae', 'timm', 'last map')


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(ls_init_value=1.0),
        dict(conv_mlp=True),
        dict(conv_mlp=True, stem_type='overlap_tiered'),
        dict(head_norm_first=True),
        dict(head_hidden_size=24),
        dict(ls_init_value=None),
        dict(ls_init_value=None, use_grn=True),
        dict(ls_init_value=1.0, use_grn=True),
        dict(num_classes=0),
    ],
    ids=str,
)
def test_any_file_of_timm(kwargs, folder):
    path = save_timm(folder, 'convnext_tiny', **{**SIZES, 'num_classes': 7, **kwargs})
    output = 'pooled features' if kwargs.get('num_classes') == 0 else 'logits'
    check(path, 'timm', 'last map', output)


def test_other_patches_are_another_network_in_timm(folder):
    """Its weights fit, but timm keeps the last stride at 32, with dilated convolutions."""
    path = save_timm(folder, 'convnext_tiny', num_classes=7, patch_size=8, **SIZES)
    found = verify.verify(str(path))
    assert found.verdict == 'failed' and not found.passed
    assert any('outputs of one shape, got (1, 64, 3, 3) and' in line for line in found.remarks)


def test_as_deep_as_the_deepest(folder):
    """xxlarge has the most blocks, and another epsilon, which only the variant's sizes tell."""
    sizes = dict(
        depths=VARIANTS['xxlarge'].depths, dims=[dim // 8 for dim in (384, 768, 1536, 3072)]
    )
    path = save_timm(folder, 'convnext_xxlarge', num_classes=7, norm_eps=1e-6, **sizes)
    check(path, 'timm', 'last map', 'logits')


# --- the authors' and Meta's files, which timm reads ----------------------------------------------


def test_files_of_the_authors(folder):
    save_ours(folder / 'convnextv2_atto_1k_224_ema.pt', arch='atto', use_grn=True)
    check('convnextv2_atto_1k_224_ema', 'timm', 'last map', 'logits')
    save_ours(folder / 'convnext_tiny_22k_224.pth', arch='tiny', num_classes=21841)
    found = check('convnext_tiny_22k_224', 'timm', 'last map', 'logits')
    assert all(row['name'] == '' for row in found.classes)


def test_pretraining_of_the_authors(folder):
    path = save_ours(folder / 'convnextv2_atto_1k_224_fcmae.pt', arch='atto', use_grn=True)
    state = torch.load(path)['model']
    state = {key: t for key, t in state.items() if not key.startswith(('norm.', 'head.'))}
    torch.save({'model': state}, path)
    check('convnextv2_atto_1k_224_fcmae', 'timm', 'last map')


def test_files_of_meta(folder):
    name = 'dinov3_convnext_tiny_pretrain_lvd1689m-21b726bb'
    save_ours(folder / f'{name}.pth', 'meta', wrap=False, arch='tiny', num_classes=0)
    check(name, 'timm', 'last map', 'pooled features')
    eupe = folder / 'facebook/EUPE-ConvNeXt-T/EUPE-ConvNeXt-T.pt'
    eupe.parent.mkdir(parents=True)
    save_ours(eupe, 'meta', wrap=False, arch='tiny', num_classes=0)
    state = torch.load(eupe)
    torch.save(state | {'projectors.0.weight': torch.ones(2, 2)}, eupe)
    check('facebook/EUPE-ConvNeXt-T', 'timm', 'last map', 'pooled features')


def test_one_wrong_weight_is_found(folder, monkeypatch):
    """Of the file, after our model was loaded."""
    path = save_ours(folder / 'mine.pth', num_classes=7, **SIZES)
    load = verify.load_weights

    def load_and_spoil(model, path):
        report = load(model, path)
        checkpoint = torch.load(path)
        checkpoint['model']['stages.2.1.gamma'][3] += 1
        torch.save(checkpoint, path)
        return report

    monkeypatch.setattr(verify, 'load_weights', load_and_spoil)
    found = verify.verify(str(path))
    assert found.verdict == 'different' and not found.passed
    assert all(value > 1e-5 for value in found.differences.values())


# --- open_clip --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'model'),
    [
        ('CLIP-convnext_base-laion400M-s13B-b51K', 'convnext_base'),
        ('CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K', 'convnext_base_w_320'),
    ],
)
def test_files_of_open_clip(name, model, folder):
    theirs = open_clip.create_model(model, load_weights=False)
    randomize(theirs)
    path = folder / f'laion/{name}/open_clip_pytorch_model.bin'
    path.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), path)
    found = check(f'laion/{name}', 'open_clip', 'last map', 'pooled features')
    assert 'mean and std of CLIP' in found.image and not found.classes
    # Of a file without its name nobody knows the text encoder.
    found = verify.verify(str(path.rename(folder / 'mine.bin')))
    assert found.verdict == 'not compared' and 'CLIP' in found.image
    assert any('an embedding of CLIP' in remark for remark in found.remarks)


# --- keras ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'file', 'top', 'output'),
    [
        ('keras_convnext_tiny', 'convnext_tiny.h5', True, 'logits'),
        ('keras_convnext_tiny_notop', 'convnext_tiny_notop.h5', False, 'pooled features'),
    ],
)
def test_files_of_keras(name, file, top, output, folder):
    theirs = keras.applications.ConvNeXtTiny(weights=None, include_top=top)
    for variable in theirs.variables:  # Keras' layer scale hides the blocks
        if variable.path.rpartition('/')[2] in ('gamma', 'layer_scale'):
            variable.assign(variable.value * 0 + 0.7)
    theirs.save(folder / file)
    found = check(name, 'keras', 'last map', output)
    assert len(found.classes) == (5 if top else 0)


# --- torchvision ------------------------------------------------------------------------------


@pytest.mark.parametrize('classes', [1000, 7])
def test_files_of_torchvision(classes, folder):
    theirs = torchvision.models.convnext_tiny(num_classes=classes)
    randomize(theirs)
    path = folder / 'convnext_tiny-983f1562.pth'
    torch.save(theirs.state_dict(), path)
    found = check(path, 'torchvision', 'last map', 'logits')
    assert found.layout == 'torchvision'


def test_names_of_classes_are_the_same(monkeypatch):
    from timm import data

    names, where = verify.class_names(1000)
    assert names[0].startswith('tench') and len(names) == 1000 and 'timm' in where
    monkeypatch.delattr(data, 'ImageNetInfo')
    names, where = verify.class_names(1000)
    assert names[0] == 'tench' and len(names) == 1000 and 'torchvision' in where
