"""Reports of tools/complexity.py, and how its arguments name models."""

import json
from pathlib import Path

import pytest

from convnext_backbones.benchmark.complexity import (
    CONVENTION,
    Cost,
    build_classifier,
    build_found,
    find_models,
    measure,
)
from convnext_backbones.benchmark.cost_report import render
from convnext_backbones.benchmark.paper import CLASSIFIERS, COMPARATORS, SWIN_L_NOTE
from convnext_backbones.experiments import EXPERIMENTS
from convnext_backbones.recipes import HEAD_RECIPES, RECIPES
from tools import complexity as tool

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = [ROOT / f'configs/sample/{name}_convnext_sample.py' for name in ('mask_rcnn', 'upernet')]


def run(capsys, *args: str) -> str:
    tool.main([*map(str, args)])
    return capsys.readouterr().out


def test_reports_hold_the_same_figures():
    shape = (64, 96)
    costs = [
        measure('convnext_tiny_224', build_classifier('tiny'), shape),
        measure('mine', build_found(str(SAMPLES[0]), ROOT / 'configs'), shape),
    ]
    report = json.loads(render(costs, 'json', breakdown=False))
    assert report['convention'] == CONVENTION and 'multiply-adds' in CONVENTION
    classifier, detector = report['models']
    assert detector['name'] == 'mine' and detector['input_shape'] == [64, 96]
    assert detector['macs'] == sum(part['macs'] for part in detector['parts'])
    # The paper's multiply-adds are for another image, its parameters for any.
    assert classifier['paper_gmacs'] is None and classifier['macs_ratio'] is None
    assert classifier['paper_params'] == 29

    markdown = render(costs, 'markdown', breakdown=False).splitlines()
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in markdown[:4]]
    assert rows[0][:3] == ['model', 'image', 'params, M'] and set(rows[1][0]) == {'-'}
    assert rows[2] == [
        *('convnext_tiny_224', '64 x 96', '28.59', '29', '0.9858'),
        *(f'{classifier["macs"] / 1e9:.2f}', '', ''),
    ]
    assert markdown[4] == '' and ' '.join(markdown[5:]) == CONVENTION

    table = render(costs, 'table', breakdown=True)
    assert all(f'- {part["name"]} ' in table for part in detector['parts'])
    assert '- neck' not in render(costs, 'table', breakdown=False)


def test_a_report_goes_to_a_file(capsys, tmp_path):
    out = tmp_path / 'reports' / 'costs.md'
    printed = run(capsys, 'convnext_tiny_224', '--format=markdown', '--breakdown', '--out', out)
    assert printed == f'1 models are in {out}\n'
    text = out.read_text()
    assert '4.46 |   4.5 | 0.9901 |' in text and '| - backbone: stem ' in text
    assert list(out.parent.iterdir()) == [out]


def test_arguments_name_models(capsys):
    assert find_models('upernet_convnext_t') == ['upernet_convnext_t']
    assert find_models('swin_l') == [
        'cascade_mask_rcnn_swin_l_in22k',
        'upernet_swin_l_in22k',
    ]
    assert find_models('r50') == ['cascade_mask_rcnn_r50']
    assert find_models('mine.py') == ['mine.py']
    # A row that differs from the paper's says why.
    rendered = render([Cost('x', (1, 1), (), note=SWIN_L_NOTE)] * 2, 'table', False)
    assert ' '.join(rendered.split()).count(SWIN_L_NOTE) == 1


def test_by_default_the_thirteen_and_the_flags_add(capsys, monkeypatch):
    names = []

    def note(name, model, shape):
        names.append(name)
        return Cost(name, shape or (1, 1), ())

    monkeypatch.setattr(tool, 'build_found', lambda model, configs: None)
    monkeypatch.setattr(tool, 'measure', note)
    run(capsys)
    assert names == list(EXPERIMENTS) and len(names) == 13
    names.clear()
    run(capsys, '--recipes')
    assert names == [*EXPERIMENTS, *RECIPES]
    names.clear()
    run(capsys, '--heads')
    assert names == [*EXPERIMENTS, *HEAD_RECIPES]
    names.clear()
    run(capsys, 'swin_t', '--imagenet', '--comparators')
    assert names[:3] == [name for name in COMPARATORS if 'swin_t' in name]
    assert len(names) == len(COMPARATORS) + len(CLASSIFIERS)  # none twice


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['none.py'], "complexity: expected a config file, found none at 'none.py'"),
        (['swin_x'], "got 'swin_x'; did you mean"),
        ([SAMPLES[0]], 'expected --shape H W for mask_rcnn_convnext_sample'),
        (['convnext_tiny_224', '--shape', 0, 64], 'of at least one pixel, got (0, 64)'),
        (['convnext_tiny_224', '--shape', 8, 64], 'at least 32'),
    ],
)
def test_wrong_arguments_get_one_sentence(args, message):
    with pytest.raises(SystemExit) as error:
        tool.main([*map(str, args)])
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.slow
def test_classifiers_need_neither_toolbox(run_python, tmp_path):
    code = f"""
        import runpy, sys
        sys.modules['mmcv'] = sys.modules['mmdet'] = sys.modules['mmseg'] = None
        sys.argv = ['complexity.py', 'convnext_tiny_224']
        runpy.run_path({str(ROOT / 'tools/complexity.py')!r}, run_name='__main__')
    """
    assert 'convnext_tiny_224' in run_python(code, tmp_path)
