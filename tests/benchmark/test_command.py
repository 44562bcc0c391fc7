"""tools/benchmark.py as a user runs it."""

import json

import pytest
from PIL import Image

from convnext_backbones.benchmark import machine
from convnext_backbones.benchmark import race as race_module
from convnext_backbones.benchmark import worker as worker_module
from convnext_backbones.benchmark.worker import ContenderError, Session, failure_reason
from tools import benchmark as tool


class WorkerInHere(Session):
    """Does what a :class:`~convnext_backbones.benchmark.worker.Worker` does, in this process."""

    def __init__(self, contender, threads):
        super().__init__(contender)

    def ask(self, command):
        try:
            return getattr(self, command)()
        except Exception as error:
            raise ContenderError(failure_reason(error)) from error

    def close(self):
        pass


def test_command_line(tmp_path, capfd, monkeypatch):
    for module in (race_module, worker_module):
        monkeypatch.setattr(module, 'Worker', WorkerInHere)
    monkeypatch.setattr(machine, 'GEMM_SECONDS', 0.01)
    files = {kind: tmp_path / 'out' / f'report.{kind}' for kind in ('json', 'markdown', 'png')}
    tool.main(
        ['backbone', '--arch=atto', '--shape', '64', '64', '--rounds=3', '--threads=1']
        + ['--contenders', 'ours', 'torchvision']
        + [f'--{kind}={path}' for kind, path in files.items()]
    )
    printed = capfd.readouterr().out
    assert 'torch uses' in printed and 'ConvNeXt atto, inference, 1 x 64 x 64' in printed
    assert 'not on PyPI' in printed
    report = json.loads(files['json'].read_text())
    (race,) = report['races']
    (row,) = [row for row in race['rows'] if row['contender'] == 'ours']
    assert row['ratio'] == 1 and row['difference'] == 0 and len(row['seconds']) == 3
    assert 0 < row['share'] < 1.5 and race['ceilings']['fp32'] > 0
    assert {*race['absent']} == {'torchvision', 'official'}  # torchvision has no atto
    markdown = files['markdown'].read_text()
    assert '| ours' in markdown and '- allocator: default' in markdown
    assert Image.open(files['png']).size[0] > 500


def test_a_whole_model_from_a_file(tmp_path, capfd, monkeypatch):
    for module in (race_module, worker_module):
        monkeypatch.setattr(module, 'Worker', WorkerInHere)
    monkeypatch.setattr(machine, 'GEMM_SECONDS', 0.01)
    path = tmp_path / 'report.json'
    arguments = ['model', 'configs/sample/mask_rcnn_convnext_sample.py', '--shape', '64', '96']
    arguments += ['--rounds=1', '--seconds=0', '--threads=1', f'--json={path}']
    for flags, title in (
        ([], 'mask_rcnn_convnext_sample, inference, 1 x 64 x 96'),
        (['--from-file'], 'mask_rcnn_convnext_sample, inference from file, 1 x 64 x 96'),
    ):
        tool.main([*arguments, *flags, '--contenders', 'ours'])
        assert title in capfd.readouterr().out
        (race,) = json.loads(path.read_text())['races']
        assert race['case']['from_file'] == bool(flags)
        assert race['rows'][0]['difference'] == 0 and race['rows'][0]['detections'] > 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('backbone --contenders tim', "got 'tim'; did you mean 'timm'?"),
        ('backbone --batch 0', 'expected --batch to be at least 1, got 0'),
        ('sweep --over pixels --rounds 0', 'expected --rounds to be at least 1'),
        ('backbone --shape 8 64', 'at least 32 x 32'),
        ('model none.py', 'expected a config file, found none'),
    ],
)
def test_wrong_arguments_get_one_sentence(arguments, message):
    with pytest.raises(SystemExit) as error:
        tool.main(arguments.split())
    assert str(error.value).startswith('benchmark: ') and message in str(error.value)
