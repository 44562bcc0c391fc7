"""Records of trainings that never ran, to make reports from."""

import json
import math
from pathlib import Path

from convnext_backbones.reports.results_table import ResultsTable

EVIL = '<script>alert(1)</script>'
ENVIRONMENT = dict(
    started='2026-01-02T03:04:05+00:00',
    command=f'tools/train.py mine.py --cfg-options name={EVIL}',
    seed=1234567,
    first_step=0,
    last_step=40,
    versions=dict(python='3.11.7', torch='2.13.0', mmdet=None),
    operators='torchvision',
    hardware=dict(gpus=['NVIDIA H100'] * 2, cpu='AMD EPYC', cpus=8, threads=4, processes=2),
    git=dict(package=dict(commit='abc123', dirty=True), config=None),
    base=dict(files=['mmdet::a.py'], diff=f"-lr = 1\n+lr = 2\n+name = '{EVIL}'"),
)
CONFIG = f"""
lr = 2
name = '{EVIL}'
train_cfg = dict(max_iters=40)
train_dataloader = dict(batch_size=4, pipeline=[dict(type='Load'), dict(type='Flip', prob=0.5)])
val_dataloader = dict(batch_size=1)
work_dir = 'runs/a'
"""


def training_rows(iterations: int = 40, validations: tuple[int, ...] = (20, 40)) -> list[dict]:
    """Rows like those of a detector: two losses, two rates, times, and two metrics."""
    rows = []
    for step in range(2, iterations + 1, 2):
        losses = dict(loss=3 / step, loss_cls=2 / step, loss_bbox=1 / step)
        rates = dict(highest_lr=1e-3 / step, lowest_lr=1e-4 / step)
        cost = dict(time=0.5 if step > 2 else 4.5, data_time=0.1, memory=1000 + step)
        rows.append(dict(split='train', step=step, iter=step, **losses, **rates, **cost))
        if step in validations:
            metrics = {'coco/bbox_mAP': math.sin(step), 'coco/bbox_mAP_l': -1, 'val/loss': 9 / step}
            rows.append(dict(split='val', step=step, **metrics))
    return rows


def write_run(
    folder: Path,
    rows: list[dict] | None = None,
    config: str = CONFIG,
    **environment: object,
) -> Path:
    """Write the records of a training into a new folder, and return it."""
    folder.mkdir(parents=True)
    table = ResultsTable(folder / 'results.csv')
    for row in training_rows() if rows is None else rows:
        table.add(row)
    contents = json.dumps(ENVIRONMENT | environment)
    (folder / 'environment.json').write_text(contents)
    (folder / 'config.py').write_text(config)
    return folder
