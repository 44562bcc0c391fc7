"""The table of tools/complexity.py --layers, in all formats."""

import json

import pytest

from convnext_backbones.benchmark.complexity import build_classifier
from convnext_backbones.benchmark.layer_report import render_layers, totals
from convnext_backbones.benchmark.layers import Layer, LayerTable, list_layers
from tools import complexity as tool

TOTAL = 'Parameters: 28,589,128. Trainable: 28,589,128. Not trainable: 0.'


def run(capsys, *args: str) -> str:
    tool.main([*map(str, args)])
    return capsys.readouterr().out


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_without_a_name_it_is_the_table_of_keras(capsys):
    text = run(capsys, '--layers')
    assert text.startswith('classifier, image of 224 x 224\n') and text.endswith(f'\n{TOTAL}\n')
    (row,) = (' '.join(line.split()) for line in text.splitlines() if line[:7] == '  head ')
    assert row == 'head convnext_tiny_head_dense Linear 1 x 1000 769,000'
    assert run(capsys, '--layers', '--arch=tiny', '--num-classes=1000') == text
    assert run(capsys, '--layers', 'convnext_tiny_224').endswith(f'\n{TOTAL}\n')


def test_a_classifier_of_other_sizes(capsys):
    options = ('--depths', 1, 2, '--dims', 8, 16, '--num-classes', 0, '--use-grn')
    model = build_classifier(None, depths=(1, 2), dims=(8, 16), num_classes=0, use_grn=True)
    params = sum(parameter.numel() for parameter in model.parameters())
    printed = run(capsys, '--layers', *options, '--shape', 64, 96, '--format=json')
    (table,) = json.loads(printed)['models']
    assert (table['params'], table['trainable']) == (params, params)
    assert table['name'] == 'classifier' and table['input_shape'] == [64, 96]
    assert sum(layer['params'] for layer in table['layers']) == params
    assert table['layers'][-2]['name'] == 'norm' and table['layers'][-1]['shape'] == [1, 16]
    # Beside a named one, and with its costs instead of its layers.
    report = run(capsys, *options, 'convnext_tiny_224')
    names = [line.split()[0] for line in report.splitlines() if line.startswith('  c')]
    assert names == ['classifier', 'convnext_tiny_224']


def test_markdown(capsys):
    lines = run(capsys, '--layers', '--arch=atto', '--format=markdown').splitlines()
    assert lines[0] == 'classifier, image of 224 x 224' and lines[1] == ''
    assert cells(lines[2]) == ['layer', 'in Keras', 'type', 'output', 'parameters']
    first = ['downsample_layers.0.0', 'convnext_atto_stem_conv', 'PatchConv2d']
    assert cells(lines[4]) == [*first, '1 x 40 x 56 x 56', f'{16 * 3 * 40 + 40:,}']


def test_totals_and_layers_that_run_often_or_never():
    often = Layer('a', 'Conv2d', (1, 2, 3), 5, 1_000, 0)
    never = Layer('b', 'Conv2d', None, 0, 234, 234)
    table = LayerTable('x', (1, 1), (often, never))
    assert totals(table) == 'Parameters: 1,234. Trainable: 234. Not trainable: 1,000.'
    lines = render_layers([table, table], 'markdown').splitlines()
    assert cells(lines[2]) == ['layer', 'type', 'output', 'parameters']
    assert cells(lines[4]) == ['a', 'Conv2d', '1 x 2 x 3, the first of 5', '1,000']
    assert cells(lines[5]) == ['b', 'Conv2d', '', '234']
    assert lines.count('x, image of 1 x 1') == 2


def test_no_row_is_wrapped():
    model = build_classifier('tiny')
    table = list_layers('tiny', model, (1024, 2048))
    lines = render_layers([table], 'table').splitlines()
    assert len(lines) == len(table.layers) + 6


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--arch=tiny', '--depths', '1', '2'], 'either arch or depths and dims'),
        (['--num-classes=-1'], 'num_classes to be an integer of at least 0, got -1'),
        (['--layers', '--shape', '8', '8'], 'at least 32 x 32'),
    ],
)
def test_wrong_options_get_one_sentence(args, message):
    with pytest.raises(SystemExit) as error:
        tool.main(args)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_layers_and_parts_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        tool.main(['--layers', '--breakdown'])
    assert 'not allowed with' in capsys.readouterr().err
