"""``python -m convnext_backbones.weights verify``, against the implementations that are installed.

timm, open_clip, keras and torchvision have theirs in tests/peers/test_verify_origins.py.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support.peer_models import randomize
from support.weights import save_detector

from convnext_backbones import VARIANTS, ConvNeXtClassifier
from convnext_backbones.io.download import CACHE_VARIABLE, FOLDERS_VARIABLE, OFFLINE_VARIABLE
from convnext_backbones.weights import origins, verify
from convnext_backbones.weights.__main__ import main
from convnext_backbones.weights.layouts import EXPORTS
from convnext_backbones.weights.names import CLASSIFIER_PART, export
from convnext_backbones.weights.published import find_published
from convnext_backbones.weights.subject import Subject

V2 = 'facebook/convnextv2-atto-1k-224'
AUTHORS = 'convnextv2_atto_1k_224_ema'
FINE_TUNED = 'convnext-v2-atto_fcmae-pre_3rdparty_in1k_20230104-23765f83'
PRETRAINED = 'convnext-v2-atto_3rdparty-fcmae_in1k_20230104-07514db4'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a machine without a network has weights."""
    monkeypatch.setenv(OFFLINE_VARIABLE, '1')
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / 'cache'))
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'hub'))
    return tmp_path


def classifier(arch='atto', **options) -> dict[str, torch.Tensor]:
    model = ConvNeXtClassifier(arch, **options)
    randomize(model)
    return model.state_dict()


def save(state, layout: str, path):
    tensors, homeless = export(state, EXPORTS[layout])
    assert not homeless
    key = {'official': 'model', 'mmpretrain': 'state_dict'}.get(layout)
    torch.save({key: tensors} if key else tensors, path)
    return path


def save_transformers(family: str, folder, sizes, kind='ForImageClassification', **options):
    """A file that transformers writes."""
    config = getattr(transformers, f'{family}Config')(
        depths=list(sizes['depths']), hidden_sizes=list(sizes['dims']), **options
    )
    model = getattr(transformers, f'{family}{kind}')(config)
    randomize(model)
    model.save_pretrained(folder)
    return folder / 'model.safetensors'


@pytest.fixture
def v2(folder):
    sizes = VARIANTS['atto']
    sizes = dict(depths=sizes.depths, dims=sizes.dims)
    return save_transformers('ConvNextV2', folder / V2, sizes, num_labels=1000)


@pytest.fixture
def authors(folder):
    """The file of a project that no test environment has."""
    return save(classifier(use_grn=True), 'official', folder / f'{AUTHORS}.pt')


def run(capsys, *line) -> tuple[int, str]:
    """The status of the command, and what it printed."""
    try:
        main(['verify', *map(str, line)])
        status = 0
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().out


def result(capsys, *line) -> dict:
    """What the command prints for programs, when nothing is wrong."""
    status, text = run(capsys, *line, '--json')
    assert status == 0
    return json.loads(text)


def error(*line) -> str:
    with pytest.raises(SystemExit) as stop:
        main(['verify', *map(str, line)])
    assert stop.value.code != 0
    return str(stop.value)


# --- equal ------------------------------------------------------------------------------------


def check_equal(found: dict, project: str, *outputs: str) -> None:
    assert found['verdict'] == 'equal' and found['origin'].startswith(f'{project} ')
    assert [*found['differences']] == [*outputs]
    assert max(found['differences'].values()) <= found['tolerance'] == 1e-5


def test_a_published_classifier(v2, capsys):
    found = result(capsys, V2)
    check_equal(found, 'transformers', 'last map', 'logits')
    assert found['file'] == str(v2) and found['loaded'] == 140
    assert found['options'] == dict(arch='atto', use_grn=True, num_classes=1000)
    assert found['image'] == 'generated, 224 x 224, mean and std of ImageNet'
    chances = [row['probability'] for row in found['classes']]
    assert len(chances) == 5 and chances == sorted(chances, reverse=True)
    assert any('layer_norm_eps=1e-12' in remark for remark in found['remarks'])


def test_what_people_read(v2, capsys):
    status, text = run(capsys, V2, '--top', 3)
    assert status == 0
    lines = text.splitlines()
    assert lines[0] == f'file: {v2} (transformers layout), 140 tensors loaded'
    assert lines[1] == "network: arch='atto', use_grn=True, num_classes=1000"
    assert lines[3] == 'best classes:' and len(lines[4:7]) == 3 and '%' in lines[6]
    assert lines[7].startswith('equal to transformers ')
    assert 'within 1e-05 of the largest value: last map ' in lines[7] and ', logits ' in lines[7]


def test_files_of_mmpretrain(folder, capsys):
    state = classifier(use_grn=True)
    save(state, 'mmpretrain', folder / f'{FINE_TUNED}.pth')
    check_equal(result(capsys, FINE_TUNED), 'mmpretrain', 'last map', 'logits')
    trunk = {name: t for name, t in state.items() if not CLASSIFIER_PART.match(name)}
    save(trunk, 'mmpretrain', folder / f'{PRETRAINED}.pth')
    found = result(capsys, PRETRAINED)
    check_equal(found, 'mmpretrain', 'last map')
    assert not found['classes'] and found['norm'] > 0
    assert any('neither a final norm nor a head' in remark for remark in found['remarks'])


@pytest.mark.parametrize(
    ('family', 'kind', 'outputs'),
    [
        ('ConvNext', 'ForImageClassification', ['logits']),
        ('ConvNext', 'Model', ['pooled features']),
        ('ConvNextV2', 'Model', ['pooled features']),
        ('DINOv3ConvNext', 'Model', ['pooled features']),
    ],
)
def test_any_file_of_transformers(family, kind, outputs, folder, miniature, capsys):
    options = {} if kind == 'Model' else dict(num_labels=7)
    found = result(capsys, save_transformers(family, folder, miniature, kind, **options))
    check_equal(found, 'transformers', 'last map', *outputs)
    assert found['options'].pop('num_classes') == (7 if options else 0)
    assert found['options'].pop('use_grn', False) is (family == 'ConvNextV2')
    assert {*found['options']['arch']} == {'depths', 'dims'}
    names = [row['name'] for row in found['classes']]
    assert names == ([''] * 5 if options else [])
    assert any('have no head' in remark for remark in found['remarks']) is not bool(options)


def test_any_file_of_mmpretrain(folder, miniature, capsys):
    state = classifier(miniature, num_classes=7)
    found = result(capsys, save(state, 'mmpretrain', folder / 'mine.pth'))
    check_equal(found, 'mmpretrain', 'last map', 'logits')


def test_the_projects_are_run_for_their_own_files_only(folder, miniature, capsys):
    found = result(capsys, save_detector(miniature, folder))
    assert found['verdict'] == 'not compared' and not found['origin']
    assert any('no project on PyPI is known to read' in remark for remark in found['remarks'])


# --- different ------------------------------------------------------------------------------------


def test_one_wrong_weight_is_found(v2, monkeypatch, capsys):
    load = verify.load_weights

    def load_badly(model, path):
        report = load(model, path)
        with torch.no_grad():
            model.stages[2][3].pwconv1.weight[0, 0] += 0.1
        return report

    monkeypatch.setattr(verify, 'load_weights', load_badly)
    status, text = run(capsys, V2)
    assert status == 1
    assert 'different from transformers' in text and 'by more than 1e-05' in text
    status, text = run(capsys, V2, '--json')
    found = json.loads(text)
    assert status == 1 and found['verdict'] == 'different'
    assert all(value > 1e-5 for value in found['differences'].values())


@pytest.mark.parametrize('layout', ['transformers', 'mmpretrain'])
def test_a_file_that_its_project_does_not_read(layout, folder, miniature, monkeypatch, capsys):
    """The names are checked by the project, not only by ours."""
    path = save(classifier(miniature, num_classes=7), layout, folder / 'mine.pth')
    load = verify.load_weights

    def load_and_spoil(model, path):
        report = load(model, path)
        tensors = torch.load(path)
        inner = tensors.get('state_dict', tensors)
        inner.pop([*inner][5])
        torch.save(tensors, path)
        return report

    monkeypatch.setattr(verify, 'load_weights', load_and_spoil)
    status, text = run(capsys, path)
    assert status == 1
    assert f'the comparison with {layout} ' in text and ' failed: it misses 1 tensors' in text


# --- no comparison --------------------------------------------------------------------------------


def test_the_origin_is_not_installed(authors, monkeypatch, capsys):
    monkeypatch.setattr(origins.Origin, 'installed', lambda _: False)
    status, text = run(capsys, AUTHORS)
    assert status == 0
    assert 'best classes:' in text
    assert 'note: not compared: timm is not installed; pip install timm' in text


def test_the_origin_cannot_be_imported(v2, monkeypatch, capsys):
    def fail(subject, picture):
        raise ImportError('libtorch.so: cannot open')

    monkeypatch.setitem(origins.ORIGINS, 'transformers', origins.Origin('transformers', 'x', fail))
    found = result(capsys, V2)
    assert found['verdict'] == 'not compared'
    assert any('transformers cannot be imported: libtorch.so' in line for line in found['remarks'])


def test_an_embedding_has_no_classes(miniature):
    def is_embedding(name):
        published = find_published(name)
        model = ConvNeXtClassifier(miniature, num_classes=640)
        subject = Subject('x', 'timm', '', dict(num_classes=640), model, published=published)
        return verify._is_embedding(subject), verify._preprocessing(subject)

    assert is_embedding('timm/convnext_base.clip_laion2b') == (True, (256, 'CLIP'))
    assert is_embedding('timm/convnext_base.clip_laion2b_augreg_ft_in1k') == (False, (256, 'CLIP'))
    assert is_embedding('timm/convnext_tiny.in12k') == (False, (224, 'ImageNet'))
    assert is_embedding('my/own') == (False, (224, 'ImageNet'))


# --- the image --------------------------------------------------------------------------------


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_middle_of_an_image(tmp_path):
    pixels = noise(512, 256)
    Image.fromarray(pixels).save(tmp_path / 'wide.png')
    image = verify.open_image(tmp_path / 'wide.png')
    # 256 pixels are the short side for 224, so that nothing is resized.
    assert np.array_equal(verify.middle(image, 224), pixels[16:240, 144:368])
    tall = Image.fromarray(noise(384, 500))
    assert np.array_equal(verify.middle(tall, 384), noise(384, 500)[58:442])
    assert verify.middle(tall, 320).shape == (320, 320, 3)
    assert verify.middle(Image.new('RGB', (20000, 2), 'red'), 224).shape == (224, 224, 3)


def test_an_image_is_upright_and_in_color(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new('L', (300, 200), 7).save(tmp_path / 'turned.jpg', exif=exif)
    image = verify.open_image(tmp_path / 'turned.jpg')
    assert image.size == (200, 300) and image.mode == 'RGB'


def test_mean_and_std(tmp_path):
    image = Image.new('RGB', (224, 224), (10, 20, 30))
    picture = verify.make_picture(image, 224, (10.0, 10.0, 10.0), (1.0, 2.0, 4.0))
    assert picture.pixels.shape == (1, 224, 224, 3)
    assert picture.normalized.shape == (1, 3, 224, 224)
    assert picture.normalized[0, :, 5, 6].tolist() == [0, 5, 5]


def test_the_generated_picture_is_the_same_every_time():
    picture = verify.generate(64)
    assert np.array_equal(picture, verify.generate(64))
    assert picture.dtype == np.uint8 and picture.std((0, 1)).min() > 30


def test_a_file_is_classified(v2, folder, capsys):
    Image.fromarray(noise(300, 260)).save(folder / 'photo.png')
    found = result(capsys, V2, '--image', folder / 'photo.png')
    check_equal(found, 'transformers', 'last map', 'logits')
    assert found['image'].startswith(str(folder / 'photo.png'))
    assert found['classes'] != result(capsys, V2)['classes']


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('timm/convnext_zepto_rms.ra4_e3600_r224_in1k', 'its norms have no bias'),
        ('convnextv2_small.untrained', 'there are no weights'),
        ('upernet_convnext_tiny_1k_512x512', 'expected weights of a classifier, got those of Uper'),
        ('facebook/dinov3-convnext-tiny-pretrain-lvd1689m', 'on this machine, because'),
        ('dinov3_convnext_tiny_pretrain_lvd1689m-21b726bb', 'no public address'),
        ('convnext_tiny_1k_224', 'convnext_tiny_1k_224.pth'),
        ('convnext_tinny', 'did you mean'),
    ],
)
def test_names_that_give_nothing(name, message, folder):
    found = error(name)
    assert found.startswith('weights: ') and message in found and '\n' not in found


def test_files_that_are_no_convnext(folder, miniature):
    torch.save({'layer1.0.conv1.weight': torch.ones(1)}, folder / 'resnet.pth')
    assert 'it looks like a ResNet' in error(folder / 'resnet.pth')
    state = classifier(miniature, in_chans=5)
    assert 'some for 5 channels' in error(save(state, 'official', folder / 'five.pth'))
    del state['stages.1.0.norm.bias']
    state.pop('downsample_layers.0.0.weight')
    assert 'without the weight of a stem' in error(save(state, 'official', folder / 'part.pth'))
    save(classifier(miniature), 'official', folder / f'{AUTHORS}.pt')
    assert 'the file has depths (1, 1, 2, 1)' in error(AUTHORS)


def test_images_that_are_none(folder):
    assert error(V2, '--image', folder / 'no.png').startswith('weights: expected an image file')
    (folder / 'text.png').write_text('text')
    assert 'cannot read the image' in error(V2, '--image', folder / 'text.png')


def test_the_number_of_classes(capsys):
    with pytest.raises(SystemExit) as stop:
        main(['verify', V2, '--top', '0'])
    assert stop.value.code == 2 and 'at least 1' in capsys.readouterr().err


def test_fewer_classes_than_asked_for(folder, miniature, capsys):
    path = save(classifier(miniature, num_classes=3), 'mmpretrain', folder / 'three.pth')
    assert len(result(capsys, path)['classes']) == 3


def test_a_published_name_says_how_it_is_prepared():
    published = replace(find_published(V2), resolution=None)
    subject = Subject('x', 'timm', '', {}, None, published=published)
    assert verify._preprocessing(subject) == (224, 'ImageNet')
