"""Every layout becomes a config that the check has nothing to say about, but that data are few."""

from pathlib import Path

import pytest
from support import folders

from convnext_backbones.authoring.new_config import write_config
from convnext_backbones.authoring.plan import Wishes
from convnext_backbones.checks.preflight import find_problems
from convnext_backbones.config.loading import load_run_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
MOST_LINES = 30
SMALL = Wishes(weights='none', epochs=1, batch=2)
LAYOUTS = (
    *('official_coco', 'roboflow_coco', 'cvat_coco', 'label_studio_coco', 'fiftyone_coco'),
    *('one_json', 'yolo', 'yolo_polygons', 'roboflow_yolo', 'voc_xml', 'roboflow_xml'),
    *('like_ade20k', 'cityscapes', 'voc_maps', 'cvat_masks', 'camvid', 'camvid_colors'),
    *('fastai_camvid', 'split_below', 'black_and_white'),
)


@pytest.mark.parametrize('name', LAYOUTS)
def test_what_is_written_passes_the_check(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    out, data = Path('mine.py'), Path('data')
    getattr(folders, name)(data)
    before = sorted(data.rglob('*'))
    write_config(
        data,
        out,
        SMALL,
        prepared=Path('converted'),
        configs=CONFIGS,
        command='tools/new_config.py data',
        say=said.append,
    )
    assert sorted(data.rglob('*')) == before
    assert len(out.read_text().splitlines()) <= MOST_LINES
    cfg = load_run_config(out)
    findings = [str(finding) for finding in find_problems(cfg)]
    assert [text for text in findings if 'classes without a ' not in text] == []
    assert said[-1] == 'wrote mine.py'
