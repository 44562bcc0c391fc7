"""tools/convert_weights.py and tools/publish.py, as commands and as functions."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.weights import WITH_HEAD, equal, save_classifier, save_detector, tensors

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtClassifier, load_weights
from convnext_backbones.io.checkpoint import read_checkpoint
from convnext_backbones.weights import convert
from convnext_backbones.weights.layouts import MMPRETRAIN
from convnext_backbones.weights.names import export, find_networks
from tools import convert_weights

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture
def official(miniature, tmp_path) -> Path:
    return save_classifier(miniature, tmp_path)


@pytest.fixture
def detector(miniature, tmp_path) -> Path:
    return save_detector(miniature, tmp_path)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize('start', range(1, 5))
def test_a_file_comes_back_from_all_layouts_bit_by_bit(start, suffix, official, tmp_path):
    normal = tmp_path / 'normal.pth'
    convert_weights.main([str(official), str(normal), '--to', 'official'])
    assert equal(official, normal)
    others = [name for name in WITH_HEAD if name != 'official']
    current = normal
    for step in (others * 2)[start : start + 4]:
        converted = tmp_path / f'{step}.{suffix}'
        convert_weights.main([str(current), str(converted), '--to', step])
        ((layout, _),) = find_networks(tensors(converted))
        assert layout.name == step
        current = converted
    back = tmp_path / 'back.pth'
    convert_weights.main([str(current), str(back), '--to', 'official'])
    assert back.read_bytes() == normal.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def converted(source: Path, folder: Path, *layouts: str) -> Path:
    """The file that comes out of one conversion after the other."""
    for i, layout in enumerate(layouts):
        target = folder / f'{i}.pth'
        convert.convert(source, target, layout)
        source = target
    return source


@pytest.mark.parametrize(('first', 'second'), [*itertools.permutations(WITH_HEAD, 2)])
def test_every_pair_of_layouts(first, second, official, tmp_path):
    assert equal(official, converted(official, tmp_path, first, second, 'official'))


@pytest.mark.parametrize(
    ('first', 'second'), [*itertools.permutations(('mmpretrain', 'timm', 'transformers'), 2)]
)
def test_every_pair_of_layouts_that_have_v2(first, second, miniature, tmp_path):
    official = save_classifier(miniature, tmp_path, use_grn=True)
    assert tensors(official)['stages.0.0.grn.gamma'].shape == (1, 1, 1, 32)
    assert equal(official, converted(official, tmp_path, first, second, 'official'))


@pytest.mark.parametrize('layouts', [('dinov3', 'meta'), ('meta', 'dinov3'), ('timm_hnf', 'meta')])
def test_layouts_without_a_classifier(layouts, miniature, tmp_path):
    official = save_classifier(miniature, tmp_path, num_classes=0)
    there = converted(official, tmp_path, *layouts)
    assert len(tensors(there)) == 63 + 2 * (layouts[-1] == 'meta')
    # The second name of a tensor is nothing to keep.
    assert equal(official, converted(there, tmp_path, 'official'))


@pytest.mark.parametrize('name', ['keras.h5', 'keras.weights.h5'])
def test_keras_and_back(name, miniature, tmp_path, capsys):
    pytest.importorskip('h5py')
    official = save_classifier(miniature, tmp_path)
    convert_weights.main([str(official), str(tmp_path / name), '--to', 'keras'])
    report = load_weights(ConvNeXtClassifier(miniature), tmp_path / name)
    assert report.layout == 'keras' and len(report.loaded) == 65 and not report.surprises
    with pytest.raises(ValueError, match='leave ema=True out'):
        load_weights(ConvNeXtClassifier(miniature), tmp_path / name, ema=True)
    convert_weights.main([str(tmp_path / name), str(tmp_path / 'back.pth'), '--to', 'official'])
    assert '(keras)' in capsys.readouterr().out
    assert equal(official, tmp_path / 'back.pth')


@pytest.mark.parametrize('layout', ['torchvision', 'dinov3', 'meta', 'keras'])
def test_a_network_that_a_project_does_not_have(layout, miniature, tmp_path):
    official = save_classifier(miniature, tmp_path, use_grn=True)
    with pytest.raises(ValueError, match=f'the layout {layout} has a place for.*ConvNeXt V2'):
        convert.convert(official, tmp_path / 'other.pth', layout, drop=True)
    assert not (tmp_path / 'other.pth').exists()


def test_the_containers_of_each_project(official, tmp_path):
    entries = {}
    for to in WITH_HEAD:
        convert.convert(official, tmp_path / 'file.pth', to)
        entries[to] = set(read_checkpoint(tmp_path / 'file.pth'))
    assert entries['official'] == {'model'} and entries['mmpretrain'] == {'meta', 'state_dict'}
    assert 'stem.0.weight' in entries['timm'] and 'classifier.2.bias' in entries['torchvision']
    assert {'convnext.layernorm.weight', 'classifier.weight'} < entries['transformers']


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_a_detector_keeps_its_heads_and_classes(suffix, detector, tmp_path, miniature):
    there, back = tmp_path / f'there.{suffix}', tmp_path / f'back.{suffix}'
    convert.convert(detector, there, 'mmpretrain')
    assert 'backbone.stages.0.0.depthwise_conv.weight' in tensors(there)
    convert.convert(there, back, 'official')
    assert equal(detector, back)
    assert [*read_checkpoint(back)['meta']['dataset_meta']['classes']] == ['nucleus']
    assert not load_weights(ConvNeXt(miniature), there).missing


def test_what_has_no_place_is_left_out_on_request_only(detector, tmp_path, capsys):
    target = tmp_path / 'timm.pth'
    with pytest.raises(SystemExit, match='convert_weights: expected only tensors .* got 10 others'):
        convert_weights.main([str(detector), str(target), '--to', 'timm'])
    assert not target.exists()
    convert_weights.main([str(detector), str(target), '--to', 'timm', '--drop'])
    assert '61 tensors, 10 skipped' in capsys.readouterr().out
    assert len(tensors(target)) == 61


def test_the_renamed_norm_of_mmpretrain_is_said(official, miniature, tmp_path, capsys):
    exported, _ = export(tensors(official), MMPRETRAIN)
    torch.save(exported, tmp_path / 'mm.pth')
    convert_weights.main([str(tmp_path / 'mm.pth'), str(tmp_path / 'o.pth'), '--to', 'official'])
    assert 'its norm3 as the norm of the classifier' in capsys.readouterr().out
    assert equal(tmp_path / 'o.pth', official)


def test_the_final_norm_keeps_its_side_of_the_pooling(official, tmp_path):
    source = converted(official, tmp_path, 'timm_hnf')
    assert equal(official, converted(source, tmp_path / 'back', 'official'))
    assert find_networks(tensors(converted(source, tmp_path / 'same', 'timm_hnf')))
    for layout in ('timm', 'transformers'):
        with pytest.raises(ValueError, match='got one with it before; convert it to official or '):
            convert.convert(source, tmp_path / 'other.pth', layout)
    after = converted(official, tmp_path, 'timm')
    with pytest.raises(ValueError, match='before the pooling, which the layout timm_hnf has'):
        convert.convert(after, tmp_path / 'other.pth', 'timm_hnf')


def test_an_entry_meta_that_is_a_tensor(official, tmp_path):
    path = tmp_path / 'meta.pth'
    torch.save({'state_dict': tensors(official), 'meta': torch.ones(3)}, path)
    assert equal(converted(path, tmp_path, 'official'), official)


def test_options_of_the_conversion(official, tmp_path):
    state = tensors(official)
    averaged = {f'teacher.{name}': t + 1 for name, t in state.items()}
    averaged |= {f'student.{name}': t for name, t in state.items()}
    torch.save({'model': state, 'model_ema': averaged}, tmp_path / 'both.pth')
    target = tmp_path / 'one.pth'
    flags = ['--to', 'official', '--ema', '--prefix', 'teacher.', '--drop']
    convert_weights.main([str(tmp_path / 'both.pth'), str(target), *flags])
    assert torch.equal(tensors(target)['norm.weight'], state['norm.weight'] + 1)


def test_another_epsilon_is_not_lost(official, tmp_path, monkeypatch, miniature):
    """xxlarge, here of a miniature's size, has norms that other projects would not build."""
    monkeypatch.setitem(VARIANTS, 'xxlarge', replace(VARIANTS['xxlarge'], **miniature))
    for layout in ('official', 'timm'):
        converted(official, tmp_path, layout)
    for layout in ('transformers', 'torchvision', 'mmpretrain'):
        with pytest.raises(ValueError, match='the sizes of xxlarge, whose epsilon is 1e-05'):
            converted(official, tmp_path, layout)


def test_errors_are_one_line(tmp_path):
    page = tmp_path / 'page.pth'
    page.write_text('<html>')
    with pytest.raises(SystemExit, match='convert_weights: cannot read the checkpoint'):
        convert_weights.main([str(page), str(tmp_path / 'out.pth'), '--to', 'timm'])
    command = [sys.executable, TOOLS / 'publish.py', page]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr.startswith('publish: cannot read the checkpoint')
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == ['page.pth']
