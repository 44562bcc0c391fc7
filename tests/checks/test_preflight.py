"""The whole check of a config, and what training does with it."""

from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config

from convnext_backbones.checks import preflight
from convnext_backbones.checks import training as checks_training
from convnext_backbones.checks.findings import ERROR
from convnext_backbones.checks.preflight import find_problems
from convnext_backbones.experiments import EXPERIMENTS
from tools import train as train_tool

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_a_healthy_config_has_no_finding_and_stays_as_it_was(task, request, capfd):
    cfg = request.getfixturevalue(task)
    before = deepcopy(cfg.to_dict())
    assert find_problems(cfg) == []
    assert cfg.to_dict() == before
    assert not Path(cfg.work_dir).exists()
    assert capfd.readouterr().out == ''


def test_a_model_that_cannot_be_built(det):
    det.model.neck.type = 'NoSuchNeck'
    (finding,) = find_problems(det, thorough=False)
    assert (finding.level, finding.where) == (ERROR, 'model') and 'NoSuchNeck' in finding.what


@pytest.fixture
def train(monkeypatch):
    """tools/train.py up to the Runner, which it reaches or not."""
    module = train_tool

    def build_runner(cfg):
        raise FileNotFoundError('the runner is reached')

    monkeypatch.setattr('convnext_backbones.training.run.build_runner', build_runner)
    return module


def test_training_stops_at_an_error(train, saved, coco):
    wrong = [str(saved), '--cfg-options', 'model.roi_head.bbox_head.num_classes=80']
    with pytest.raises(SystemExit) as exit_:
        train.main(wrong)
    text = str(exit_.value)
    assert text.startswith('train: the check before the training found 1 error and 0 warnings')
    assert '--no-check' in text and 'roi_head.bbox_head: 80' in text
    for flags in ([*wrong, '--no-check'], [str(saved)]):
        with pytest.raises(SystemExit) as exit_:
            train.main(flags)
        assert str(exit_.value) == 'train: the runner is reached'


def test_only_the_first_process_tells(det, monkeypatch):
    det.model.roi_head.bbox_head.num_classes = 80
    det.launcher = 'pytorch'
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank, told in ((0, True), (1, False)):
        monkeypatch.setenv('RANK', str(rank))
        with pytest.raises(ValueError, match='--no-check') as error:
            preflight.refuse_problems(det)
        assert ('roi_head.bbox_head' in str(error.value)) == told


def test_warnings_reach_the_log(train, saved, monkeypatch):
    class Reached(BaseException):  # which the tool takes for none of the config's problems
        pass

    class Runner:
        logger = property(lambda self: self)

        def register_hook(self, hook):
            pass

        def info(self, line):
            pass

        def warning(self, line):
            if '2 images per step of the optimizer' in line:
                raise Reached

    monkeypatch.setattr('convnext_backbones.training.run.build_runner', lambda cfg: Runner())
    with pytest.raises(Reached):
        train.main([str(saved), '--cfg-options', 'auto_scale_lr.base_batch_size=16'])


# One of each method, and the largest.
QUICK = ('mask_rcnn_convnext_t', 'cascade_mask_rcnn_convnext_xl_in22k', 'upernet_convnext_t')


@pytest.mark.parametrize(
    'name',
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in EXPERIMENTS],
)
def test_the_published_configs_lack_nothing_but_data(name, tmp_path, monkeypatch, no_weights_here):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    cfg.work_dir = str(tmp_path)
    usage = type('Usage', (), dict(free=1 << 50))
    monkeypatch.setattr(checks_training.shutil, 'disk_usage', lambda folder: usage)
    findings = find_problems(cfg, thorough=False, processes=8)
    assert findings and all(finding.where.startswith('data/') for finding in findings)
