"""SECURITY.md keeps its promises: neither configs of plain data nor data files execute anything."""

import ast
import copy
import json
import os
import pickle
import re
import sys
from pathlib import Path

import cv2
import mmengine
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio.handlers import file_handlers
from mmengine.registry import DATASETS, MODELS, init_default_scope
from support.untrained import leave_untrained

from convnext_backbones.config.loading import load_config, load_run_config
from convnext_backbones.config.plain import plain_config, read_plain_config
from convnext_backbones.experiments import EXPERIMENTS
from convnext_backbones.io.mmengine_patches import refuse_code_in_data
from tools import predict, publish

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = [ROOT / f'configs/{name}.py' for name in EXPERIMENTS]


class Call:
    """Pickles as a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def marker(tmp_path) -> Path:
    """A file that malicious files try to create."""
    return tmp_path / 'executed'


@pytest.fixture
def foreign(tmp_path, marker, monkeypatch) -> Path:
    """A module ``foreign_code`` on Python's path that creates ``marker`` when it is imported."""
    path = tmp_path / 'foreign_code.py'
    path.write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def no_foreign_handlers(monkeypatch):
    """mmengine's handlers are its own again afterwards."""
    for suffix, handler in file_handlers.items():
        monkeypatch.setitem(file_handlers, suffix, handler)


# --- configs of plain data ------------------------------------------------------------------


def as_json(value):
    """What is left of a value when it has been JSON."""
    return json.loads(json.dumps(value))


@pytest.mark.parametrize('path', PUBLISHED, ids=lambda path: path.stem)
def test_published_configs_are_plain_data(path, tmp_path):
    cfg = Config.fromfile(path)
    (tmp_path / 'plain.json').write_text(json.dumps(plain_config(cfg)))
    plain = read_plain_config(tmp_path / 'plain.json')
    expected = cfg.to_dict()
    assert expected['model']['backbone'].pop('init_cfg')
    assert plain.model.to_dict() == as_json(expected['model'])
    pipeline = expected['test_dataloader']['dataset']['pipeline']
    assert as_json(plain.test_dataloader.dataset.pipeline) == as_json(pipeline)
    assert plain.test_dataloader.dataset.pipeline[1].scale == pipeline[1]['scale']  # a tuple
    init_default_scope(cfg.default_scope)
    datasets = [
        DATASETS.build(dict(c.test_dataloader.dataset, lazy_init=True)) for c in (cfg, plain)
    ]
    for key in ('classes', 'palette'):
        theirs, ours = (as_json(dataset.metainfo[key]) for dataset in datasets)
        assert theirs == ours


@pytest.mark.parametrize(
    'path',
    [
        path if path.stem.endswith('_t') else pytest.param(path, marks=pytest.mark.slow)
        for path in PUBLISHED
    ],
    ids=lambda path: path.stem,
)
def test_their_plain_form_builds_the_same_model(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        models = [MODELS.build(model) for model in (cfg.model, Config(plain_config(cfg)).model)]
    theirs, ours = ({k: v.shape for k, v in m.state_dict().items()} for m in models)
    assert theirs == ours


@pytest.fixture(scope='module', params=['det', 'seg'])
def published(request, tmp_path_factory) -> dict[str, Path]:
    """The files that tools/publish.py leaves of a miniature, by their suffix, and their origin."""
    folder = tmp_path_factory.mktemp(request.param)
    config, checkpoint = leave_untrained(request.param, folder)
    out = folder / 'published'
    publish.main([str(checkpoint), '--config', str(config), '--out', str(out)])
    files = {path.suffix: path for path in out.iterdir()}
    assert files.keys() == {'.json', '.safetensors'}
    return files | {'.py': config, '.pth': checkpoint}


@pytest.fixture
def contents(published) -> dict:
    """A plain config, to be spoilt."""
    return json.loads(published['.json'].read_text())


def test_published_files_predict_the_same(published, tmp_path):
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / 'image.png'), rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    text = yaml.safe_dump(json.loads(published['.json'].read_text()))
    (tmp_path / 'plain.yaml').write_text(text)
    results = []
    for config, weights in [
        (published['.py'], published['.pth']),
        (published['.json'], published['.safetensors']),
        (tmp_path / 'plain.yaml', published['.safetensors']),
    ]:
        out = tmp_path / config.suffix
        args = [config, weights, tmp_path / 'image.png', '--out', out, '--score-thr', 0]
        np.random.seed(0)  # mmdet varies its colors
        predict.main([*map(str, args)])
        results.append({p.relative_to(out): p.read_bytes() for p in out.rglob('*') if p.is_file()})
    assert len(results[0]) in (2, 3)
    assert results[0] == results[1] == results[2]


def test_what_is_not_needed_to_predict_is_left_out(contents, tmp_path):
    extra = dict(
        custom_imports=dict(imports=['convnext_backbones'], allow_failed_imports=False),
        train_dataloader=dict(dataset=dict(type='foreign_code.Data')),
        load_from='foreign.pth',
    )
    contents['model']['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='foreign.pth')
    contents['test_dataloader']['dataset']['ann_file'] = 'foreign.pkl'
    (tmp_path / 'full.json').write_text(json.dumps(contents | extra))
    cfg = read_plain_config(tmp_path / 'full.json')
    assert cfg.keys() == {'default_scope', 'model', 'test_dataloader', 'visualizer'}
    assert 'foreign' not in str(cfg.to_dict())


def write(path: Path, contents) -> Path:
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    return path


# What a config of plain data must not say: where, by keys and indices, and the value.
ATTACKS = {
    'imports': (['custom_imports'], dict(imports=['convnext_backbones', 'foreign_code'])),
    'imports as a list': (['custom_imports'], ['foreign_code']),
    'a base of Python': (['_base_'], 'foreign_code.py'),
    'bases': (['_base_'], ['./foreign_code.py']),
    'a scope': (['default_scope'], 'foreign_code'),
    'no scope': (['default_scope'], ['mmdet']),
    'a path to a class': (['model', 'type'], 'foreign_code.Net'),
    'a module': (['model', 'backbone', 'type'], 'foreign_code'),
    'a module of a package': (['model', 'backbone', 'type'], 'mmdet.foreign_code'),
    'a function': (['model', 'type'], 'os.system'),
    'an inner scope': (['model', '_scope_'], 'foreign_code'),
    'an expression': (
        ['model', 'test_cfg', 'nms'],
        dict(type='__import__("foreign_code")', iou_threshold=0.5),
    ),
    'another config': (['model', 'teacher_config'], 'foreign_code.py'),
    'a file of class weights': (['model', 'class_weight'], 'weights.pkl'),
    'a variable': (['model', 'name'], '{{$HOME:}}'),
    'a transform': (['test_dataloader', 'dataset', 'pipeline', 0, 'type'], 'foreign_code.Load'),
    'a transform of transforms': (
        ['test_dataloader', 'dataset', 'pipeline', 1, 'transforms'],
        [[dict(type='foreign_code')]],
    ),
    'a pipeline': (['test_dataloader', 'dataset', 'pipeline'], 'foreign_code'),
    'a dataset': (['test_dataloader', 'dataset'], 'foreign_code'),
    'a file of classes': (['test_dataloader', 'dataset', 'metainfo', 'classes'], '/etc/passwd'),
    'a file of colors': (['test_dataloader', 'dataset', 'metainfo', 'palette'], '/etc/passwd'),
    'a visualizer': (['visualizer', 'type'], 'foreign_code.Visualizer'),
    'no model': (['model'], 'foreign_code'),
}


@pytest.mark.parametrize('attack', ATTACKS)
def test_a_plain_config_cannot_name_code(attack, contents, foreign, marker, tmp_path):
    (*place, last), value = ATTACKS[attack]
    node = contents
    for key in place:
        node = node[key]
    node[last] = value
    path = write(tmp_path / 'plain.json', contents)
    with pytest.raises(ValueError, match='cannot use .*plain.json. as a config of plain data: exp'):
        read_plain_config(path)
    assert not marker.exists() and 'foreign_code' not in sys.modules


YAML_ATTACKS = {
    'a call': 'model: !!python/object/apply:os.system ["touch {marker}"]',
    'a new object': 'model: !!python/object/new:os.system ["touch {marker}"]',
    'a name': 'model: !!python/name:foreign_code.Net',
    'a module': 'model: !!python/module:foreign_code',
}


@pytest.mark.parametrize('attack', YAML_ATTACKS)
def test_a_tag_of_yaml_makes_no_object(attack, foreign, marker, tmp_path, no_foreign_handlers):
    text = YAML_ATTACKS[attack].format(marker=marker)
    path = write(tmp_path / 'plain.yaml', text)
    with pytest.raises(ValueError, match='could not determine a constructor for the tag'):
        read_plain_config(path)
    with pytest.raises(SystemExit, match='predict: cannot use .*plain.yaml'):
        predict.main([str(path), 'any.pth', str(foreign), '--out', str(tmp_path / 'out')])
    refuse_code_in_data()
    with pytest.raises(yaml.YAMLError):
        mmengine.load(path)
    assert not marker.exists() and 'foreign_code' not in sys.modules


def test_the_traps_work(foreign, marker):
    """What the tests above and below find not executed would have been."""
    for spring in (
        lambda: yaml.unsafe_load(YAML_ATTACKS['a call'].format(marker=marker)),
        lambda: yaml.unsafe_load(YAML_ATTACKS['a module'].format(marker=marker)),
        lambda: pickle.loads(pickle.dumps(Call(f'touch {marker}'))),
        lambda: MODELS.get('foreign_code'),
    ):
        spring()
        marker.unlink()
        sys.modules.pop('foreign_code', None)


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('a.json', '{', 'Expecting property name'),
        ('b.json', '[]', r'expected named entries, got \[\]'),
        ('c.json', '[' * 100_000, 'cannot use'),
        ('d.json', b'\xff\xfe', "codec can't decode"),
        ('e.yaml', 'a: [', 'expected the node content'),
        ('f.yml', 'when: 2020-01-01', 'expected default_scope mmdet or mmseg, got None'),
        ('g.YAML', '', 'expected named entries, got None'),
    ],
)
def test_what_is_no_config_gets_one_sentence(name, text, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load_config(path)
    assert '\n' not in str(caught.value)


def test_a_plain_config_is_for_prediction(published):
    with pytest.raises(ValueError, match='expected a Python config to train or evaluate, got'):
        load_run_config(published['.json'])


def test_a_config_that_does_not_go_into_plain_data_is_refused(published):
    cfg = Config.fromfile(published['.py'])
    for key, value, message in [
        ('type', torch.nn.Linear, 'a registered name in model.type, got <class'),
        ('thresholds', {1: 0.5}, 'plain names of the entries in model.thresholds, got 1'),
        ('mean', np.ones(3), r'plain data in model.mean, got array\('),
    ]:
        spoilt = copy.deepcopy(cfg)
        spoilt.model[key] = value
        with pytest.raises(ValueError, match=message):
            plain_config(spoilt)


# --- data files -----------------------------------------------------------------------------


@pytest.fixture
def forged(tmp_path, marker) -> Path:
    """A pickle that creates ``marker``."""
    path = tmp_path / 'data.pkl'
    path.write_bytes(pickle.dumps(Call(f'touch {marker}')))
    return path


def read_proposals(path: Path) -> None:
    from mmdet.datasets import BaseDetDataset

    (path.parent / 'data.json').write_text(json.dumps(dict(metainfo={}, data_list=[])))
    annotations = str(path.parent / 'data.json')
    BaseDetDataset(ann_file=annotations, proposal_file=str(path), serialize_data=False)


def read_class_weights(path: Path) -> None:
    from mmseg.models.losses.utils import get_class_weight

    get_class_weight(str(path))


READERS = {
    'mmengine.load': lambda path: mmengine.load(path),
    'mmengine.load of a format': lambda path: mmengine.load(path, file_format='pickle'),
    'mmengine.load of a file': lambda path: mmengine.load(path.open('rb'), file_format='pkl'),
    'annotations': lambda path: BaseDataset(ann_file=str(path)),
    'proposals': read_proposals,
    'class weights': read_class_weights,
}


@pytest.mark.parametrize('reader', READERS)
def test_a_pickle_of_data_is_refused(reader, forged, marker, no_foreign_handlers):
    refuse_code_in_data()
    with pytest.raises(ValueError, match='refused to read a pickle, which can execute code'):
        READERS[reader](forged)
    assert not marker.exists()


def test_pickles_are_still_written(tmp_path, no_foreign_handlers):
    refuse_code_in_data()
    mmengine.dump([1], tmp_path / 'data.pkl')
    assert pickle.loads((tmp_path / 'data.pkl').read_bytes()) == [1]
    mmengine.dump(dict(a=[1]), tmp_path / 'data.yaml')
    assert mmengine.load(tmp_path / 'data.yaml') == dict(a=[1])


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ("dict(type='LoadBiomedicalImageFromFile', decode_backend='pickle')", 'decode_backend'),
        ("dict(type='mmdet.OpenImagesChallengeDataset')", 'OpenImagesChallengeDataset'),
    ],
)
def test_configs_that_unpickle_past_mmengine_are_refused(setting, message, published, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(f'_base_ = [{str(published[".py"])!r}]\nextra = [{setting}]\n')
    with pytest.raises(ValueError, match=f'expected another .*{message}'):
        load_config(config)


# --- the promise as a whole -----------------------------------------------------------------

# Calls that execute what a file says, unless it has the argument.
EXECUTING = {
    'pickle.load': None,
    'pickle.loads': None,
    'pickle.Unpickler': None,
    'torch.load': 'weights_only',
    'yaml.load': None,
    'yaml.unsafe_load': None,
    'joblib.load': None,
    'shelve.open': None,
    'eval': None,
    'exec': None,
}
OURS = sorted(
    path
    for folder in ('convnext_backbones', 'tools', 'dev')
    for path in ROOT.glob(f'{folder}/**/*.py')
)


def test_all_rooms_are_looked_at():
    rooms = {path.parent.name for path in ROOT.glob('convnext_backbones/*/__init__.py')}
    assert len(rooms) == 17
    assert {path.parent.name for path in OURS} == {*rooms, 'convnext_backbones', 'tools', 'dev'}


@pytest.mark.parametrize('path', OURS, ids=lambda path: f'{path.parent.name}/{path.name}')
def test_nothing_of_ours_executes_a_file(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        name, arguments = ast.unparse(call.func), {keyword.arg for keyword in call.keywords}
        assert name not in EXECUTING or EXECUTING[name] in arguments, f'line {call.lineno}'
        assert 'allow_pickle' not in arguments, f'line {call.lineno}'


def test_every_promise_names_its_test():
    promises = (ROOT / 'SECURITY.md').read_text().split('## ')[1]
    lines = re.findall(r'^- .*?(?=^- |\Z)', promises, re.MULTILINE | re.DOTALL)
    assert len(lines) > 5
    for line in lines:
        tests = re.findall(r'`([\w/]+\.py)::(\w+)`', line)
        assert tests, line
        for file, test in tests:
            assert f'def {test}(' in (ROOT / 'tests' / file).read_text(), test
