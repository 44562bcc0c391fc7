"""Metrics are registered without the toolboxes, and are classes of their own once built."""

import pickle
import sys

import pytest
from mmengine.registry import METRICS, init_default_scope
from support.noisy_runs import refusal


def test_the_import_registers_and_needs_torch_and_mmengine_only(run_python, tmp_path):
    code = """
        import sys
        import convnext_backbones
        from mmengine.registry import METRICS

        names = ('FastCocoMetric', 'PerClassIoUMetric', 'DumpPredictions')
        assert all(METRICS.get(name) for name in names)
        assert not {'mmcv', 'mmdet', 'mmseg', 'pycocotools', 'faster_coco_eval'} & set(sys.modules)
    """
    run_python(code, tmp_path)


@pytest.mark.parametrize(
    ('scope', 'cfg'),
    [
        ('mmdet', dict(type='FastCocoMetric', metric='bbox')),
        ('mmseg', dict(type='PerClassIoUMetric', out_prefix='per_class')),
    ],
)
def test_metrics_are_classes_that_pickle(scope, cfg):
    from mmdet.evaluation import CocoMetric
    from mmseg.evaluation import IoUMetric

    from convnext_backbones.evaluation.fast_coco import FastCocoMetric
    from convnext_backbones.evaluation.per_class_iou import PerClassIoUMetric

    init_default_scope(scope)
    metric = METRICS.build(cfg)
    ours, theirs = {
        'mmdet': (FastCocoMetric, CocoMetric),
        'mmseg': (PerClassIoUMetric, IoUMetric),
    }[scope]
    assert type(metric) is ours and isinstance(metric, theirs)
    again = pickle.loads(pickle.dumps(metric))
    assert type(again) is ours and vars(again).keys() == vars(metric).keys()


def test_fast_evaluation_says_what_to_install(detected, monkeypatch):
    monkeypatch.chdir(detected.cwd)
    monkeypatch.setitem(sys.modules, 'faster_coco_eval', None)
    sentence = refusal(detected.config, detected.dump, '--fast-eval')
    assert sentence.endswith('run: pip install faster-coco-eval')
