"""A folder for the hub holds weights, a plain config and a card, and nothing of the machine."""

import hashlib
import json
import math
import os
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from mmengine.config import Config
from support.miniatures import make_data
from support.published_models import CLASSES, METRICS, leave_trained

from convnext_backbones import ConvNeXt, load_weights
from convnext_backbones.engine import hub_layout
from convnext_backbones.engine.hub_layout import Stated, publish_for_hub
from convnext_backbones.io.checkpoint import read_checkpoint
from convnext_backbones.weights.model_files import model_files
from tools import publish

TASKS = ['det', 'seg']


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    """A folder with the sample data, and the records of a training for each task."""
    folder = tmp_path_factory.mktemp('somewhere')
    make_data(folder)
    for task in TASKS:
        (folder / task).mkdir()
        leave_trained(task, folder / task)
    return folder


def arguments(root: Path, task: str) -> tuple[str, str]:
    return str(root / task / f'{task}.pth'), str(root / task / 'config.py')


@pytest.fixture(scope='module')
def folders(root) -> dict[str, Path]:
    """The published folder of each task."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(root)
        return {
            task: publish_for_hub(*arguments(root, task), root / f'hub_{task}')[0] for task in TASKS
        }


@pytest.mark.parametrize('task', TASKS)
def test_what_the_hub_expects(folders, task):
    folder = folders[task]
    assert {path.name for path in folder.iterdir()} == {
        'README.md',
        'config.json',
        'model.safetensors',
    }
    card = ModelCard.load(folder / 'README.md')
    assert card.data.library_name == 'convnext_backbones'
    assert card.data.pipeline_tag == 'image-segmentation'
    assert 'convnext' in card.data.tags and card.data.model_name == f'hub_{task}'
    measured = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert measured == (METRICS if task == 'seg' else {'coco/bbox_mAP': 0.25})
    assert {one.dataset_split for one in card.data.eval_results} == {'validation'}
    config = json.loads((folder / 'config.json').read_text())
    assert config['library_name'] == 'convnext_backbones'
    assert config['architectures'] == ['EncoderDecoder' if task == 'seg' else 'MaskRCNN']
    assert config['backbone'] == dict(
        name='ConvNeXt', version=1, depths=[1] * 4, dims=[8, 16, 24, 32]
    )
    digest = hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest()
    assert f'`{digest}`' in card.text
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        (folder / 'README.md').stat().st_mode & 0o777
    }


@pytest.mark.parametrize('task', TASKS)
def test_nothing_of_the_machine_is_published(folders, root, task):
    secrets = [str(root), str(Path.home()), 'somebody', 'data/sample', 'miniature_host']
    for path in folders[task].iterdir():
        content = path.read_bytes()
        assert [secret for secret in secrets if secret.encode() in content] == [], path


@pytest.mark.parametrize('task', TASKS)
def test_the_classes_are_those_of_the_checkpoint(folders, task):
    wanted = [*(CLASSES if task == 'seg' else CLASSES[1:])]
    config = json.loads((folders[task] / 'config.json').read_text())
    assert config['test_dataloader']['dataset']['metainfo']['classes'] == wanted
    meta = read_checkpoint(folders[task] / 'model.safetensors')['meta']
    assert meta['dataset_meta']['classes'] == wanted


def test_the_card_tells_the_data_and_the_recipe(folders):
    texts = {task: (folder / 'README.md').read_text() for task, folder in folders.items()}
    assert '- **training**: 4 images\n' in texts['seg']
    assert '- **validation**: 3 images\n' in texts['seg']
    assert re.search(r'\*\*training\*\*: 4 images with \d+ objects\n', texts['det'])
    for text in texts.values():
        assert '- **batch size**: 4 images (2 processes with 2)\n' in text
        assert '- **machine**: NVIDIA H100, NVIDIA H100\n' in text
        assert '- **optimizer**: AdamW (lr=0.001, weight_decay=0.05)\n' in text
        assert '- **started from**: random numbers\n' in text
    assert '- **length**: 2 of 2 iterations\n' in texts['seg']
    assert '- **length**: 1 of 2 epochs\n' in texts['det']
    assert '| coco/bbox_mAP_l | -1 |' in texts['det']


@pytest.mark.parametrize('task', TASKS)
def test_the_code_of_the_card_runs(folders, task, monkeypatch):
    folder = folders[task]
    monkeypatch.chdir(folder.parent)
    blocks = re.findall(r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(block, names)
    whole = names['model'].backbone.state_dict()
    alone = names['backbone'].state_dict()
    assert whole.keys() == alone.keys()
    assert all(torch.equal(whole[name], alone[name]) for name in whole)


def test_a_config_of_the_backbone_starts_from_the_folder(folders):
    folder = folders['det']
    arch = dict(depths=(1,) * 4, dims=(8, 16, 24, 32))
    backbone = ConvNeXt(
        arch,
        layer_scale_init_value=1.0,
        init_cfg=dict(type='PretrainedConvNeXt', checkpoint=str(folder)),
    )
    backbone.init_weights()
    other = ConvNeXt(arch, layer_scale_init_value=1.0)
    load_weights(other, folder / 'model.safetensors')
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state_dict().items())


def test_metrics_of_a_file_are_those_of_the_test_data(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    path = tmp_path / 'metrics.json'
    path.write_text(json.dumps({'mIoU': 11.210000038146973, 'Boundary': None, 'F': math.nan}))
    stated = Stated('me/digits', 'me/data', 'apache-2.0', path)
    folder, problem = publish_for_hub(*arguments(root, 'seg'), tmp_path / 'out', stated)
    assert not problem
    card = ModelCard.load(folder / 'README.md')
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ('mIoU', 11.21)
    assert (result.dataset_type, result.dataset_split) == ('me/data', 'test')
    assert card.data.datasets == ['me/data'] and card.data.license == 'apache-2.0'
    assert card.data.model_name == 'digits' and "model_files('me/digits')" in card.text
    assert '| Boundary | – |' in card.text and '| F | – |' in card.text


def test_what_is_not_known_is_not_claimed(root, tmp_path, monkeypatch, capsys):
    """A published file and its config of plain data say neither recipe nor metrics."""
    monkeypatch.chdir(tmp_path)
    checkpoint, config = arguments(root, 'seg')
    publish.main([checkpoint, '--config', config, '--out', 'files'])
    files = {path.suffix: str(path) for path in Path('files').iterdir()}
    options = ['--config', files['.json'], '--layout', 'huggingface', '--out', 'hub']
    publish.main([files['.safetensors'], *options])
    assert 'the data could not be counted' in capsys.readouterr().err
    card = ModelCard.load('hub/README.md')
    assert card.data.eval_results is None and card.data.license == 'unknown'
    assert '## Metrics\n\nNot measured.\n' in card.text
    assert 'The checkpoint does not say how it was trained.' in card.text
    assert '- **started from**: not known\n' in card.text
    assert 'The numbers of images are not known' in card.text


@pytest.mark.parametrize(
    'content', ['[]', '{"mIoU": "high"}', '{"mIoU": true}', '{', '{"a": {"b": 1}}']
)
def test_files_of_other_metrics_are_refused(root, tmp_path, content):
    (tmp_path / 'metrics.json').write_text(content)
    stated = Stated(metrics=tmp_path / 'metrics.json')
    with pytest.raises(ValueError, match='expected metrics as tools/test.py writes them'):
        publish_for_hub(*arguments(root, 'seg'), tmp_path / 'out', stated)
    assert not (tmp_path / 'out').exists()


def test_a_folder_with_files_is_left_alone(root, tmp_path):
    (tmp_path / 'mine').touch()
    with pytest.raises(ValueError, match='expected a new or an empty folder'):
        publish_for_hub(*arguments(root, 'seg'), tmp_path)
    assert os.listdir(tmp_path) == ['mine']


def test_weights_of_another_config_are_refused_and_nothing_is_left(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    cfg = Config.fromfile(root / 'seg/config.py')
    cfg.model.backbone.arch.dims[0] = 12
    (tmp_path / 'other.py').write_text(cfg.pretty_text)
    with pytest.raises(ValueError, match=r"cannot load '.*/seg\.pth' .*and \(12, 16"):
        publish_for_hub(arguments(root, 'seg')[0], tmp_path / 'other.py', tmp_path / 'out')
    assert os.listdir(tmp_path) == ['other.py']


def test_weights_that_leave_another_backbone_at_random_are_refused(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    cfg = Config.fromfile(root / 'seg/config.py')
    cfg.model.backbone = dict(type='ResNet', depth=18, base_channels=8)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.in_channels = [8, 16, 32, 64] if head is cfg.model.decode_head else 32
    cfg.dump(tmp_path / 'other.py')
    with pytest.raises(ValueError, match='a checkpoint of the model of the config, .* backbone'):
        publish_for_hub(arguments(root, 'seg')[0], tmp_path / 'other.py', tmp_path / 'out')
    assert os.listdir(tmp_path) == ['other.py']


def test_the_library_that_writes_cards_is_asked_for(root, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_layout, 'has_library', lambda: False)
    with pytest.raises(SystemExit, match=r"pip install 'convnext_backbones\[hub\]'"):
        options = ['--layout', 'huggingface', '--out', str(tmp_path / 'out')]
        checkpoint, config = arguments(root, 'seg')
        publish.main([checkpoint, '--config', config, *options])


@pytest.mark.parametrize('repo', ['name', 'a/b/c', '/a/b', "a/b'", 'hf-hub:a/b', 'a/..'])
def test_other_names_than_of_repositories_are_refused(root, tmp_path, repo):
    with pytest.raises(ValueError, match='expected a repository of the hub, OWNER/NAME'):
        publish_for_hub(*arguments(root, 'seg'), tmp_path / 'out', Stated(repo=repo))


@pytest.mark.parametrize(
    'flags', [['--metrics', 'a'], ['--repo', 'a/b'], ['--layout', 'huggingface']]
)
def test_flags_that_would_have_no_effect_are_errors(flags, capsys):
    with pytest.raises(SystemExit) as end:
        publish.main(['a.pth', *flags])
    assert end.value.code == 2


def test_the_same_files_are_found_by_folder(folders):
    folder = folders['seg']
    assert model_files(folder) == (folder / 'config.json', folder / 'model.safetensors')
