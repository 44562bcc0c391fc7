"""``python -m convnext_backbones.weights list``."""

import json

import pytest

from convnext_backbones import PUBLISHED
from convnext_backbones.weights.__main__ import main


def test_the_table_has_a_line_per_name(capsys):
    main(['list'])
    lines = capsys.readouterr().out.splitlines()
    rows = {
        line.split()[0]: line for line in lines if line.split() and line.split()[0] in PUBLISHED
    }
    assert set(rows) == set(PUBLISHED)
    assert rows['timm/convnextv2_base.fcmae'].split()[1:3] == ['V2', 'base']
    assert 'CC-BY-NC-4.0' in rows['timm/convnextv2_base.fcmae']
    assert rows['timm/convnext_base.clip_laiona'].rstrip().endswith('yes')
    assert 'no: its norms have no bias' in rows['timm/convnext_zepto_rms.ra4_e3600_r224_in1k']
    assert 'gated' in rows['facebook/dinov3-convnext-tiny-pretrain-lvd1689m']


def test_families_and_json(capsys):
    main(['list', '--family', 'dinov3', 'EUPE', '--json'])
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 18
    assert {row['family'] for row in rows} == {'DINOv3', 'EUPE'}
    one = next(row for row in rows if row['name'] == 'timm/convnext_tiny.eupe_lvd1689m')
    assert one['licence'] == 'FAIR Noncommercial Research License'
    assert one['mean'] == [123.675, 116.28, 103.53] and one['loads'] is True


def test_a_family_that_there_is_not():
    with pytest.raises(SystemExit) as stop:
        main(['list', '--family', 'V3'])
    assert str(stop.value).startswith('weights: expected a family of CLIP, DINOv3')
    assert "got 'v3'" in str(stop.value)


@pytest.mark.parametrize('line', [[], ['lists']])
def test_usage_errors(line, capsys):
    with pytest.raises(SystemExit) as stop:
        main(line)
    assert stop.value.code == 2
