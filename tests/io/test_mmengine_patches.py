"""Changes to mmengine begin when something is built, and reading a config is not building."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.fileio.handlers import PickleHandler, YamlHandler, file_handlers
from mmengine.registry import Registry
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from support.miniatures import CONFIGS

from convnext_backbones.benchmark.whole_models import build_untrained
from convnext_backbones.checks.preflight import find_problems
from convnext_backbones.config.plain import plain_config
from convnext_backbones.engine.build import build_model, build_on_meta
from convnext_backbones.engine.runner import build_runner
from convnext_backbones.evaluation import predictions
from convnext_backbones.io.mmengine_patches import (
    PlainYaml,
    RefusedPickles,
    load_from_local,
    mmseg_bases_found,
)
from tools import browse_data, check, complexity, predict, publish, train
from tools import test as test_tool

STATE = """
    import torch
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.fileio.backends.registry_utils import backends, prefix_to_backends
    from mmengine.fileio.handlers import file_handlers
    from mmengine.registry import DefaultScope, Registry, root
    from mmengine.runner import CheckpointLoader, checkpoint
    from mmdet.utils import register_all_modules as register_mmdet
    from mmseg.utils import register_all_modules as register_mmseg
    from PIL import Image

    import convnext_backbones
    from convnext_backbones.config.loading import load_config

    register_mmdet(init_default_scope=False)
    register_mmseg(init_default_scope=False)

    def state():
        registries = [r for r in vars(root).values() if isinstance(r, Registry)]
        registries += [child for parent in registries for child in parent.children.values()]
        return [
            {(r.scope, r.name): dict(r.module_dict) for r in registries},
            dict(MODULE2PACKAGE),
            dict(CheckpointLoader._schemes),
            checkpoint.load_from_http,
            checkpoint.load_from_local,
            dict(file_handlers),
            dict(backends),
            dict(prefix_to_backends),
            {*map(str, torch.serialization.get_safe_globals())},
            torch.load,
            DefaultScope.get_current_instance(),
            Image.MAX_IMAGE_PIXELS,
        ]

"""


def test_reading_a_config_changes_nothing(run_python, tmp_path):
    """Run in a fresh process, as other tests build something."""
    plain = tmp_path / 'plain.json'
    plain.write_text(json.dumps(plain_config(Config.fromfile(CONFIGS['det']))))
    (tmp_path / 'based.py').write_text(
        "_base_ = ['mmseg::_base_/models/upernet_r50.py']\ndefault_scope = 'mmseg'\n"
    )
    paths = [*map(str, CONFIGS.values()), str(plain), str(tmp_path / 'based.py')]
    code = f"""
    before = state()
    for path in {paths!r}:
        cfg = load_config(path, {{'model.backbone.drop_path_rate': 0.1}})
        assert cfg.model.backbone.drop_path_rate == 0.1
    assert state() == before
    convnext_backbones.io.mmengine_patches.read_files_safely()
    assert state() != before
    print('unchanged')
    """
    assert 'unchanged' in run_python(STATE + code, tmp_path)


def test_bases_of_mmseg_are_found_for_as_long_as_a_config_is_read(monkeypatch):
    original = dict(MODULE2PACKAGE)
    with pytest.raises(KeyError), mmseg_bases_found():
        assert MODULE2PACKAGE['mmseg'] == 'mmseg'
        raise KeyError
    assert original == MODULE2PACKAGE
    monkeypatch.delitem(MODULE2PACKAGE, 'mmseg', raising=False)
    with mmseg_bases_found():
        assert MODULE2PACKAGE['mmseg'] == 'mmseg'
    assert 'mmseg' not in MODULE2PACKAGE


class FirstBuild(BaseException):
    """Ends a command where it builds its first object."""


class UnsafeBuild(BaseException):
    """Unlike an AssertionError, it passes through what handles the errors of any model."""


@pytest.fixture
def unsafe(monkeypatch):
    """mmengine reads as it does by itself; what is built first finds out whether it still does."""
    for suffixes, handler in ((('pkl', 'pickle'), PickleHandler), (('yaml', 'yml'), YamlHandler)):
        for suffix in suffixes:
            monkeypatch.setitem(file_handlers, suffix, handler())
    schemes = {'': mmengine_checkpoint.load_from_local}
    monkeypatch.setattr(CheckpointLoader, '_schemes', schemes)
    monkeypatch.setattr(mmengine_checkpoint, 'load_from_http', mmengine_checkpoint.load_from_http)

    def build(*args, **kwargs):
        is_safe = (
            isinstance(file_handlers['pkl'], RefusedPickles)
            and isinstance(file_handlers['yml'], PlainYaml)
            and CheckpointLoader._schemes[''] is load_from_local
        )
        raise FirstBuild if is_safe else UnsafeBuild

    monkeypatch.setattr(Registry, 'build', build)


def config() -> Config:
    cfg = Config.fromfile(CONFIGS['seg'])
    cfg.update(launcher='none', work_dir='work')
    return cfg


FUNCTIONS = {
    'build_on_meta': lambda: build_on_meta(config()),
    'build_model': lambda: build_model(config(), 'weights.pth', 'cpu'),
    'build_runner': lambda: build_runner(config()),
    'build_untrained': lambda: build_untrained(config()),
    'find_problems': lambda: find_problems(config()),
    'evaluate_predictions': lambda: predictions.evaluate_predictions(config(), 'kept.pth'),
}


@pytest.mark.parametrize('function', FUNCTIONS)
def test_what_builds_from_a_config_reads_safely(function, unsafe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predictions, 'read_predictions', lambda path: {})
    with pytest.raises(FirstBuild):
        FUNCTIONS[function]()


COMMANDS = {
    'browse_data': (browse_data, '{config}'),
    'check': (check, '{config}'),
    'complexity': (complexity, '{config}'),
    'predict': (predict, '{config} {weights} {image} --out out'),
    'publish': (publish, '{weights} --config {config}'),
    'test': (test_tool, '{config} {weights}'),
    'train': (train, '{config}'),
    'train without the check': (train, '{config} --no-check'),
}


@pytest.mark.parametrize('command', COMMANDS)
def test_commands_read_safely(command, unsafe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tool, arguments = COMMANDS[command]
    torch.save({}, 'weights.pth')
    Path('image.png').touch()
    arguments = arguments.format(config=CONFIGS['seg'], weights='weights.pth', image='image.png')
    with pytest.raises(FirstBuild):
        tool.main(arguments.split())
