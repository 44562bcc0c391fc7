"""A miniature with the records of a training that never ran, as tools/publish.py takes it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from convnext_backbones.reports.results_table import ResultsTable
from support.untrained import leave_untrained

CLASSES = ('background', *'012345678', '<script>alert(1)</script> | `a` *b* _c_ [d](e)')
METRICS = {'aAcc': 87.47, 'mIoU': 11.21}
DETECTION = {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_l': -1.0}
HARDWARE = dict(gpus=['NVIDIA H100'] * 2, cpu='AMD EPYC', processes=2)
ENVIRONMENT = dict(
    started='2026-01-02T03:04:05+00:00',
    command='/home/somebody/train.py --host miniature_host',
    hardware=HARDWARE,
    versions=dict(torch='2.13.0', mmdet=None),
)


def leave_trained(task: str, folder: Path, **meta: object) -> tuple[Path, Path]:
    """Write a config, a checkpoint of two iterations, and the records beside it; their paths.

    Args:
        task: ``det`` or ``seg``.
        folder: Where to.
        meta: Other entries of the checkpoint's ``meta``.
    """
    config, checkpoint = leave_untrained(task, folder)
    text = config.read_text()
    contents = torch.load(checkpoint, weights_only=True)
    metrics = METRICS if task == 'seg' else DETECTION
    classes = CLASSES if task == 'seg' else CLASSES[1:]
    contents['meta'] = dict(
        cfg=text,
        time='20260102_030500',
        seed=7,
        iter=2,
        epoch=1,
        dataset_meta=dict(classes=classes, palette=[(i, i, i) for i in range(len(classes))]),
        **meta,
    )
    torch.save(contents, checkpoint)
    (folder / 'config.py').write_text(text)
    (folder / 'environment.json').write_text(json.dumps(ENVIRONMENT))
    table = ResultsTable(folder / 'results.csv')
    table.add(dict(split='train', step=2, iter=2, loss=1.5, time=0.1))
    table.add({'split': 'val', 'step': 2, **metrics, 'val/loss': 3.0, 'time': 0.1})
    return config, checkpoint
