"""Weights are found by name: here, in folders, at an address or on the hub."""

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from support.file_server import CONTENT, Server
from support.hub_server import TOKEN, HubServer, running
from support.weights import holds, trunk

from convnext_backbones import PUBLISHED, ConvNeXt, ConvNeXtClassifier, load_weights
from convnext_backbones.io import download, hub
from convnext_backbones.io.download import CACHE_VARIABLE, FOLDERS_VARIABLE, OFFLINE_VARIABLE
from convnext_backbones.weights import zoo
from convnext_backbones.weights.layouts import LAYOUTS
from convnext_backbones.weights.names import export
from convnext_backbones.weights.zoo import local_file, weights_file

DINOV3 = 'dinov3_convnext_tiny_pretrain_lvd1689m-21b726bb'
GATED = 'facebook/dinov3-convnext-tiny-pretrain-lvd1689m'
CDN = 'https://dl.fbaipublicfiles.com/convnext'


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with an empty folder of weights and a network, but without huggingface_hub."""
    for variable in (OFFLINE_VARIABLE, 'HF_HUB_OFFLINE', 'HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'huggingface'))
    monkeypatch.setenv('no_proxy', '127.0.0.1,localhost')
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / 'cache'))
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path / 'own'))
    monkeypatch.setattr(hub, 'has_library', lambda: False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hub_server(machine, monkeypatch):
    with running(HubServer()) as server:
        monkeypatch.setenv('HF_ENDPOINT', server.url)
        yield server


@pytest.fixture
def server(machine):
    with running(Server()) as server:
        yield server


@pytest.fixture
def checkpoint(machine) -> bytes:
    """The contents of a file that torch reads."""
    torch.save({'w': torch.ones(1)}, machine / 'draft')
    return (machine / 'draft').read_bytes()


def test_the_authors_files():
    for name, folder, ending in (
        ('convnext_tiny_1k_224', '', 'pth'),
        ('mask_rcnn_convnext_tiny_1k_3x', '/coco', 'pth'),
        ('upernet_convnext_xlarge_22k_640x640', '/ade20k', 'pth'),
        ('convnextv2_base_1k_224_fcmae', '/convnextv2/pt_only', 'pt'),
        ('convnextv2_base_1k_224_ema', '/convnextv2/im1k', 'pt'),
        ('convnextv2_huge_22k_512_ema', '/convnextv2/im22k', 'pt'),
    ):
        assert PUBLISHED[name].url == f'{CDN}{folder}/{name}.{ending}'
        assert PUBLISHED[name].size is PUBLISHED[name].sha256 is None


def test_a_published_name_is_found_in_the_folder(published, backbone):
    load_weights(backbone, 'convnext_tiny_1k_224')
    assert holds(backbone, trunk(published))


def test_a_published_name_that_is_not_there(published, backbone):
    with pytest.raises(FileNotFoundError, match=r"'convnext_base_22k_224.pth'.*https://dl.fb"):
        load_weights(backbone, 'convnext_base_22k_224')


@pytest.mark.parametrize('name', ['convnext_tiny_224', 'convnext_tiny_1k_224.pth'])
def test_a_name_that_is_none(name, backbone):
    with pytest.raises(FileNotFoundError, match="did you mean '.*convnext_tiny_1k_224'"):
        load_weights(backbone, name)


# --- local files come first -----------------------------------------------------------------


@pytest.mark.parametrize(
    'name', ['convnext_tiny_1k_224', 'convnext_tiny.fb_in22k', 'timm/a', 'a.pth']
)
def test_a_local_file_wins(name, machine):
    path = machine / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert weights_file(name).samefile(path) and local_file(name).samefile(path)


def test_a_folder_of_that_name_does_not(machine):
    (machine / 'convnext_tiny_1k_224').mkdir()
    assert local_file('convnext_tiny_1k_224') is None
    (machine / 'weights').mkdir()
    assert weights_file('weights').samefile(machine / 'weights')  # what reads it says the rest


def test_a_folder_stands_for_the_usual_file_in_it(checkpoint, machine):
    folder = machine / 'mine'
    folder.mkdir()
    (folder / 'epoch_1.pth').write_bytes(checkpoint)
    assert weights_file('mine').samefile(folder), 'which file is meant is not known'
    for name in ('pytorch_model.bin', 'model.safetensors'):
        (folder / name).write_bytes(checkpoint)
        assert weights_file('mine').samefile(folder / name)
        assert local_file(str(folder)) == folder / name


def test_a_folder_of_a_repository_is_known(machine, miniature):
    folder = machine / 'downloads/timm/convnext_base.clip_laion2b'
    folder.mkdir(parents=True)
    state = ConvNeXtClassifier(miniature).state_dict()
    save_file(export(state, LAYOUTS['timm'])[0], folder / 'model.safetensors')
    (note,) = load_weights(ConvNeXt(miniature), folder).notes
    assert '122.7709383' in note, 'the pixels of CLIP'


def test_a_folder_does_not_shadow_a_published_name(machine):
    folder = machine / 'convnext_tiny_1k_224'
    folder.mkdir()
    (folder / 'model.safetensors').touch()
    assert local_file('convnext_tiny_1k_224') is None
    assert local_file('./convnext_tiny_1k_224').samefile(folder / 'model.safetensors')


@pytest.mark.parametrize('name', ['work_dirs/mine/epoch_12.pth', 'work_dirs/epoch_12.pth'])
def test_a_path_is_no_repository_where_its_folder_exists(name, hub_server, machine):
    (machine / 'work_dirs').mkdir()
    with pytest.raises(FileNotFoundError, match=f"found nothing at '{name}'"):
        weights_file(name)
    assert not hub_server.asked


def test_a_repository_beside_a_folder_of_its_name(hub_server, checkpoint, machine):
    hub_server.files = {'org/repo/model.safetensors': checkpoint}
    (machine / 'org').mkdir()
    with pytest.raises(FileNotFoundError, match="'org/repo'; .* write 'hf-hub:org/repo'"):
        weights_file('org/repo')
    assert weights_file('hf-hub:org/repo').read_bytes() == checkpoint


# --- the hub --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name',
    [
        'timm/convnextv2_base.fcmae',
        'convnextv2_base.fcmae',
        'hf-hub:timm/convnextv2_base.fcmae',
        'hf_hub:timm/convnextv2_base.fcmae',
        'timm/convnextv2_base.fcmae/pytorch_model.bin',
    ],
)
def test_tags_of_timm(name, hub_server, checkpoint):
    repo = 'timm/convnextv2_base.fcmae'
    hub_server.files = {f'{repo}/pytorch_model.bin': checkpoint}
    assert local_file(name) is None
    assert weights_file(name) == local_file(name)
    assert weights_file(name).parent.match(repo)
    if name.endswith('.bin'):
        assert not any('safetensors' in path for _, path in hub_server.requests())


def test_any_repository(hub_server, checkpoint):
    hub_server.files = {'org/repo/sub/weights.bin': checkpoint}
    assert local_file('org/repo/sub/weights.bin') is None
    assert weights_file('org/repo/sub/weights.bin').read_bytes() == checkpoint
    with pytest.raises(FileNotFoundError, match='name one of its files as org/repo/FILE'):
        weights_file('org/repo')


def test_the_file_of_a_row_is_the_one_that_is_tried(hub_server, checkpoint):
    hub_server.files = {'facebook/EUPE-ConvNeXt-T/EUPE-ConvNeXt-T.pt': checkpoint}
    assert weights_file('facebook/EUPE-ConvNeXt-T').name == 'EUPE-ConvNeXt-T.pt'


def test_a_misspelt_repository(hub_server):
    with pytest.raises(FileNotFoundError, match="did you mean 'timm/convnextv2_base.fcmae'"):
        weights_file('timm/convnextv2_bas.fcmae')


def test_a_page_instead_of_weights_is_not_kept(hub_server):
    hub_server.files = {'org/repo/model.safetensors': b'<!DOCTYPE html>Sign in'}
    with pytest.raises(ValueError, match='was not kept: .*a web page'):
        weights_file('org/repo')


def test_a_gated_repository_and_its_copy(hub_server, checkpoint, machine, monkeypatch):
    hub_server.files = {f'{GATED}/model.safetensors': checkpoint}
    hub_server.gated = {GATED}
    with pytest.raises(ValueError, match='gated: accept its licence at') as error:
        weights_file(GATED)
    message = str(error.value)
    assert "'timm/convnext_tiny.dinov3_lvd1689m' has the same weights" in message
    path = machine / 'own' / GATED / 'model.safetensors'
    assert f"put the file at '{path}'" in message
    path.parent.mkdir(parents=True)
    path.touch()
    assert weights_file(GATED) == local_file(GATED) == path
    path.unlink()
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    assert weights_file(GATED).read_bytes() == checkpoint


def test_an_address_of_the_hub_is_a_name(hub_server, checkpoint, monkeypatch):
    hub_server.files = {f'{GATED}/model.safetensors': checkpoint}
    hub_server.gated = {GATED}
    page = f'{hub_server.url}/{GATED}'
    for address in (page, f'{page}/blob/main/model.safetensors'):
        with pytest.raises(ValueError, match="gated: .* 'timm/convnext_tiny.dinov3_lvd1689m' has"):
            weights_file(address)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    assert weights_file(page) == weights_file(GATED)
    assert weights_file(page).read_bytes() == checkpoint


def test_an_untrained_tag(hub_server):
    for ask in (weights_file, local_file):
        with pytest.raises(FileNotFoundError, match='there are no weights'):
            ask('convnextv2_small.untrained')


def test_offline(hub_server, monkeypatch):
    monkeypatch.setenv(OFFLINE_VARIABLE, '1')
    for ask in (weights_file, local_file):
        with pytest.raises(FileNotFoundError, match='CONVNEXT_BACKBONES_OFFLINE is set'):
            ask('timm/convnextv2_base.fcmae')
        with pytest.raises(FileNotFoundError, match="did you mean 'timm/convnextv2_base.fcmae'"):
            ask('timm/convnextv2_bas.fcmae')
    assert not hub_server.asked


# --- Meta's files, and digests --------------------------------------------------------------


def test_files_without_a_public_address(machine):
    for ask in (weights_file, local_file):
        with pytest.raises(FileNotFoundError) as error:
            ask(DINOV3)
        message = str(error.value)
        assert '\n' not in message
        assert 'https://ai.meta.com/' in message and str(machine / 'own') in message
        assert "'timm/convnext_tiny.dinov3_lvd1689m' has the same weights" in message
    path = machine / 'own' / f'{DINOV3}.pth'
    path.parent.mkdir()
    path.touch()
    assert weights_file(DINOV3) == local_file(DINOV3) == path


def test_a_link_with_a_signature_serves_the_name_from_then_on(server, checkpoint, monkeypatch):
    name = f'{DINOV3.rpartition("-")[0]}-{hashlib.sha256(checkpoint).hexdigest()[:8]}'
    row = replace(PUBLISHED[DINOV3], file=f'{name}.pth')
    monkeypatch.setitem(PUBLISHED, name, row)
    server.content = checkpoint
    path = weights_file(f'{server.url}/whole/{name}.pth?Policy=a-_&Signature=b/c&Key-Pair-Id=d')
    assert path.read_bytes() == checkpoint
    assert weights_file(name) == local_file(name) == path
    assert weights_file(f'{server.url}/absent/{name}.pth?Policy=new') == path


def test_a_wrong_or_expired_link(server, checkpoint):
    server.content = checkpoint
    with pytest.raises(ValueError, match='expected a file with the SHA-256 21b726bb'):
        weights_file(f'{server.url}/whole/{DINOV3}.pth?Policy=a')
    with pytest.raises(ValueError, match='ask for a new one'):
        weights_file(f'{server.url}/expired/{DINOV3}.pth?Policy=a')


def test_known_digests_are_checked(server, monkeypatch):
    row = replace(PUBLISHED['keras_convnext_tiny'], url=f'{server.url}/whole/convnext_tiny.h5')
    monkeypatch.setitem(PUBLISHED, 'keras_convnext_tiny', row)
    server.content = CONTENT
    with pytest.raises(ValueError, match=f'expected a file with the SHA-256 {row.sha256}'):
        weights_file('keras_convnext_tiny')


def test_a_signed_link_is_not_written_down(server, monkeypatch):
    logged = []
    monkeypatch.setattr(download, 'print_log', lambda text, **options: logged.append(text))
    with pytest.raises(ValueError) as error:
        weights_file(f'{server.url}/whole/{DINOV3}.pth?Policy=secret')
    with pytest.raises(ValueError) as other:
        weights_file(f'{server.url}/absent/model.pth?Policy=secret')
    assert 'Downloading' in ''.join(logged)
    assert 'secret' not in ''.join([*logged, str(error.value), str(other.value)])


def test_a_name_without_end(machine):
    with pytest.raises((FileNotFoundError, ValueError), match='found nothing at'):
        weights_file('a' * 5000)


def test_other_schemes_are_left_to_mmengine(machine):
    assert zoo.local_file('torchvision://resnet50') is None
    with pytest.raises(ValueError, match='expected a URL with http'):
        weights_file('torchvision://resnet50')
