"""tools/roadmap.py, and the road in tools/benchmark.py, as a user runs them."""

import json

import pytest
from PIL import Image

from convnext_backbones.benchmark import roadmap_speed as speed
from convnext_backbones.benchmark.race import Result
from tools import benchmark
from tools import roadmap as tool


def test_the_table_of_a_regime(capsys):
    tool.main(['--regime', 'T', '--kinds'])
    text = capsys.readouterr().out
    assert 'ResNet-50 to ConvNeXt-T' in text and 'ResNet-200' not in text
    assert '2 of 17 cells differ' in text and '28,582,504' in text and '4161.8' in text


def test_files(tmp_path, capsys):
    out, figure = tmp_path / 'new' / 'road.json', tmp_path / 'new' / 'road.png'
    tool.main(['--regime=T', '--format=json', f'--out={out}', f'--figure={figure}'])
    steps = json.loads(out.read_text())['steps']
    assert len(steps) == 17 and steps[0]['macs'] == 4_089_184_256
    assert Image.open(figure).size[0] > 500
    assert f'{out} is written' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='roadmap: expected a picture ending in .png'):
        tool.main([f'--figure={tmp_path / "road.gif"}'])


def test_blocks(capsys):
    tool.main(['--blocks'])
    assert '7x7 dw, 192 ─ LN ─ 1x1, 768 ─ GELU' in capsys.readouterr().out


def test_the_steps_are_timed(tmp_path, capsys, monkeypatch):
    cases = []

    def race(contenders, threads, rounds, seconds, progress):
        cases.append((threads, rounds))
        found = []
        for i, one in enumerate(contenders, start=1):
            made = one.build()
            made.run()
            measures = {name: measure() for name, measure in made.measures.items()}
            found.append(Result(one, [float(i), float(i)], 2**20, measures))
        return found

    monkeypatch.setattr(speed, 'race', race)
    files = {kind: tmp_path / 'new' / f'road.{kind}' for kind in ('json', 'markdown', 'png')}
    benchmark.main(
        ['roadmap', '--regime=B', '--steps', 'resnet', '1', 'convnext', '--shape', '32', '32']
        + ['--rounds=2', '--threads=1', '--width-factor=0.05', '--batch=2', '--training']
        + [f'--{kind}={path}' for kind, path in files.items()]
    )
    assert cases == [(1, 2)]
    text = capsys.readouterr().out
    assert 'ResNet-200 to ConvNeXt-B, training step, 2 x 32 x 32, 2 rounds' in text
    report = json.loads(files['json'].read_text())
    assert [row['step'] for row in report['rows']] == ['resnet', 'enhanced_recipe', 'convnext']
    assert report['rows'][1]['ratio'] == 2 and report['machine']['threads'] == '1'
    assert '| enhanced_recipe' in files['markdown'].read_text()
    assert Image.open(files['png']).size[0] > 500
    with pytest.raises(SystemExit, match="benchmark: .*did you mean 'gelu'"):
        benchmark.main(['roadmap', '--steps', 'gelus'])
