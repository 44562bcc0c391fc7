"""The whole first run on generated sample data: `make demo`.

Generates the data, trains the sample detector and the sample segmentor from a fixed seed,
evaluates both, draws predictions of both, and prints what came out. Each step is one of the
commands that README shows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
DATA = Path('data/sample')  # where the sample configs look for it
PICTURE_COLUMNS = 6


@dataclass(frozen=True)
class Task:
    """One of the two models.

    Attributes:
        name: For headings and folders.
        config: Its sample config.
        images: Validation images, below :data:`DATA`.
        metrics: Names of the metrics to print, with the least value that the run must reach.
    """

    name: str
    config: str
    images: str
    metrics: dict[str, float]


TASKS = (
    Task(
        'detector',
        'configs/sample/mask_rcnn_convnext_sample.py',
        'coco/val',
        {
            'coco/bbox_mAP': 0.60,
            'coco/bbox_mAP_50': 0,
            'coco/bbox_mAP_75': 0,
            'coco/segm_mAP': 0.60,
            'coco/segm_mAP_50': 0,
            'coco/segm_mAP_75': 0,
        },
    ),
    Task(
        'segmentor',
        'configs/sample/upernet_convnext_sample.py',
        'ade20k/images/validation',
        {'mIoU': 65, 'mAcc': 0, 'aAcc': 0},
    ),
)


def run(*command: str | Path) -> None:
    """Run one of the tools from the root of the checkout; its failure ends the demo."""
    words = [str(word) for word in command]
    print(f'\n$ python {" ".join(words)}', flush=True)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


def run_task(task: Task, out: Path) -> dict[str, float]:
    """Train, evaluate and draw; the metrics."""
    work_dir = out / task.name
    run('tools/train.py', task.config, '--work-dir', work_dir)
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    run('tools/test.py', task.config, checkpoint, '--work-dir', work_dir)
    run(
        'tools/predict.py',
        *(task.config, checkpoint, DATA / task.images, '--out', work_dir / 'predictions'),
    )
    return json.loads((work_dir / 'metrics.json').read_text())


def contact_sheet(out: Path) -> Path:
    """One picture: a row of overlays of the detector, the same scenes below by the segmentor."""
    rows = []
    for task in TASKS:
        overlays = sorted((out / task.name / 'predictions' / 'overlays').iterdir())
        pictures = [cv2.imread(str(path)) for path in overlays[:PICTURE_COLUMNS]]
        rows.append(np.hstack([cv2.resize(picture, (240, 240)) for picture in pictures]))
    path = out / 'predictions.jpg'
    cv2.imwrite(str(path), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return path


def print_metrics(console: Console, task: Task, metrics: dict[str, float]) -> bool:
    """Print the table of one task; whether every metric reached what it must."""
    table = Table('metric', 'value', 'at least', title=task.name)
    reached = True
    for name, least in task.metrics.items():
        table.add_row(name, f'{metrics[name]:.3f}', str(least) if least else '')
        reached &= metrics[name] >= least
    console.print(table)
    return reached


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/demo'), help='folder for results'
    )
    out = parser.parse_args(argv).out
    start = time.monotonic()
    shutil.rmtree(ROOT / out, ignore_errors=True)
    run('tools/make_sample_data.py', DATA)
    metrics = {task.name: run_task(task, out) for task in TASKS}
    picture = contact_sheet(ROOT / out)
    console = Console()
    reached = [print_metrics(console, task, metrics[task.name]) for task in TASKS]
    console.print(f'pictures: {picture} (first scenes), {ROOT / out}/*/predictions/overlays (all)')
    console.print(f'{(time.monotonic() - start) / 60:.1f} minutes')
    if not all(reached):
        console.print('a metric is below what this run must reach', style='red')
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
