"""What a config changes in its base, as the records of a training keep it."""

from pathlib import Path

import pytest
from mmengine.config import Config

from convnext_backbones.config.loading import load_config
from convnext_backbones.training.base_config import describe_base

ROOT = Path(__file__).parents[2]
BASE = "a = 1\nb = dict(c=2, d=dict(e='x'))\nsteps = [dict(type='X'), dict(type='Z')]\n"


@pytest.fixture
def base(tmp_path) -> Path:
    (tmp_path / 'bases').mkdir()
    path = tmp_path / 'bases' / 'base.py'
    path.write_text(BASE)
    return path


def config(folder: Path, text: str) -> Config:
    path = folder / 'mine.py'
    path.write_text(text)
    return Config.fromfile(path)


@pytest.mark.parametrize('names', ["'bases/base.py'", "['bases/base.py']"])
def test_changes_of_the_file_and_of_its_overrides(tmp_path, base, monkeypatch, names):
    cfg = config(tmp_path, f'_base_ = {names}\nb = dict(d=dict(_delete_=True, f=3))\n')
    cfg.merge_from_dict({'a': 5})
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    assert describe_base(cfg) == dict(
        files=['bases/base.py'], diff="-a = 1\n+a = 5\n-b.d.e = 'x'\n+b.d.f = 3"
    )


def test_several_bases_and_bases_of_a_library():
    cfg = load_config(ROOT / 'configs/sample/upernet_convnext_sample.py')
    described = describe_base(cfg)
    assert len(described['files']) == 3
    lines = described['diff'].splitlines()
    assert '-model.decode_head.num_classes = 150' in lines
    assert '+model.decode_head.num_classes = 11' in lines
    assert not any('model.backbone' in line for line in lines)  # it comes from the base


def test_a_base_of_mmdet(tmp_path):
    name = 'mmdet::_base_/schedules/schedule_1x.py'
    cfg = config(tmp_path, f"_base_ = '{name}'\ntrain_cfg = dict(max_epochs=3)\n")
    changes = '-train_cfg.max_epochs = 12\n+train_cfg.max_epochs = 3'
    assert describe_base(cfg) == dict(files=[name], diff=changes)


def test_what_has_no_base_says_so(tmp_path):
    assert describe_base(config(tmp_path, 'a = 1\n')) == dict(
        missing='the config file has no _base_'
    )
    assert describe_base(Config(dict(a=1))) == dict(missing='the config file has no _base_')


def test_files_that_are_gone_are_said(tmp_path, base):
    cfg = config(tmp_path, "_base_ = 'bases/base.py'\n")
    base.unlink()
    described = describe_base(cfg)
    assert described['files'] == ['bases/base.py']
    assert 'the base could not be loaded by itself (FileNotFoundError' in described['missing']
    (tmp_path / 'mine.py').unlink()
    assert 'the config file could not be read again' in describe_base(cfg)['missing']


def test_a_computed_base_is_said(tmp_path, base):
    cfg = config(tmp_path, "_base_ = ['bases/' + 'base.py']\n")
    assert 'the config file could not be read again' in describe_base(cfg)['missing']
