"""Our models take the files of trained detectors and segmentors that the authors published."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from support.manifests import MANIFESTS
from support.weights import holds

from convnext_backbones import load_weights
from convnext_backbones.engine.runner import build_runner

ROOT = Path(__file__).resolve().parents[2]


def published_config(manifest) -> Config:
    cfg = Config.fromfile(ROOT / f'configs/{manifest.config}.py')
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('name', MANIFESTS)
def test_our_models_have_the_tensors_of_the_authors_files(name):
    manifest = MANIFESTS[name]
    with torch.device('meta'):
        model = MODELS.build(published_config(manifest).model)
    assert {key: tuple(t.shape) for key, t in model.state_dict().items()} == manifest.shapes
    numbers = sum(
        math.prod(shape)
        for key, shape in manifest.shapes.items()
        if not key.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
    )
    assert round(numbers / 1e6) == manifest.millions, 'the manifest is not that of the paper'


@pytest.fixture(scope='module')
def data_root(tmp_path_factory) -> Path:
    """Sample data, in which the digits are the first classes of COCO and ADE20K."""
    root = tmp_path_factory.mktemp('sample')
    tool = ROOT / 'tools/make_sample_data.py'
    command = [sys.executable, str(tool), str(root), '--train=1', '--val=2', '--size=64']
    subprocess.run(command, check=True, capture_output=True)
    path = root / 'coco/annotations/instances_val.json'
    annotations = json.loads(path.read_text())
    names = DATASETS.get('mmdet.CocoDataset').METAINFO['classes']
    annotations['categories'] = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    path.write_text(json.dumps(annotations))
    return root


@pytest.mark.slow
@pytest.mark.parametrize('name', MANIFESTS)
def test_a_file_like_the_authors_loads_and_is_evaluated(name, data_root, tmp_path):
    """From names and shapes of the manifest, with random weights, to metrics."""
    manifest = MANIFESTS[name]
    state = {}
    for key, shape in manifest.shapes.items():
        if not shape:
            state[key] = torch.tensor(7)
        elif len(shape) > 1:
            state[key] = torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
        else:
            state[key] = torch.rand(shape) + 0.5
    torch.save({'meta': {}, 'state_dict': state}, tmp_path / f'{name}.pth')

    cfg = published_config(manifest)
    cfg.update(work_dir=str(tmp_path), experiment_name=name, launcher='none', visualizer=None)
    loader = cfg.test_dataloader
    loader.update(batch_size=1, num_workers=0, persistent_workers=False)
    resize = next(step for step in loader.dataset.pipeline if step.type == 'Resize')
    resize.scale = (96, 96)
    if cfg.default_scope == 'mmdet':
        loader.dataset.update(
            data_root=f'{data_root}/coco/',
            ann_file='annotations/instances_val.json',
            data_prefix=dict(img='val/'),
        )
        cfg.test_evaluator.ann_file = f'{data_root}/coco/annotations/instances_val.json'
        cfg.model.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
        # However low their scores, some boxes are to be evaluated, and few enough to be fast.
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    else:
        loader.dataset.data_root = f'{data_root}/ade20k'
        cfg.model.test_cfg.mode = 'whole'
    runner = build_runner(cfg)
    report = load_weights(runner.model, tmp_path / f'{name}.pth')
    assert len(report.loaded) == len(manifest.shapes) and holds(runner.model, state)
    assert not (report.missing or report.unexpected or report.mismatched or report.dropped)
    metrics = runner.test()
    keys = ['coco/bbox_mAP', 'coco/segm_mAP'] if cfg.default_scope == 'mmdet' else ['mIoU']
    assert all(0 <= metrics[key] <= 100 for key in keys)
