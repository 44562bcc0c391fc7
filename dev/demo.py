"""Run the whole pipeline on generated sample data: ``make demo``.

Generates the data, trains the sample detector and the sample segmentor from a fixed seed,
evaluates both and draws their predictions. Each step is one of the commands that the quickstart
shows. The screen gets the progress, the metrics and where the pictures are; the output of the
commands goes to log files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))  # run as a file, this finds dev/ only

from dev.steps import Step, StepError, run_step  # noqa: E402

TOOLS = Path('tools')
DATA = Path('data/sample')  # where the sample configs look for it
PICTURE_COLUMNS = 6
INTERRUPTED_STATUS = 130  # as shells have it for SIGINT


@dataclass(frozen=True)
class Task:
    """One of the two models.

    Attributes:
        name: Name for headings and folders.
        config: Its sample config.
        images: Folder of validation images, below :data:`DATA`.
        metrics: Metrics to print, with the least value that the run must reach.
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


class Steps:
    """Runs the commands one after the other, numbered on the screen.

    Args:
        console: Where to show the progress.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.count = 0
        self.total = 1 + 3 * len(TASKS)

    def run(self, title: str, log: Path, *command: str | Path, epochs: int = 1) -> None:
        """Run one of the tools; its output goes to the file ``log``.

        Raises:
            StepError: The tool failed.
        """
        self.count += 1
        step = Step(f'[{self.count}/{self.total}] {title}', command, ROOT / log, epochs)
        run_step(step, ROOT, self.console)


def run_task(task: Task, out: Path, steps: Steps) -> dict[str, float]:
    """Train, evaluate and draw; return the metrics.

    Raises:
        StepError: A tool failed.
    """
    work_dir = ROOT / out / task.name
    logs = work_dir / 'logs'
    flags: list[str | Path] = [task.config, '--work-dir', work_dir]
    epochs = Config.fromfile(ROOT / task.config).train_cfg.get('max_epochs', 1)
    title = f'train the {task.name}'
    steps.run(title, logs / 'train.log', TOOLS / 'train.py', *flags, epochs=epochs)
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    flags = [task.config, checkpoint, '--work-dir', work_dir]
    steps.run(f'evaluate the {task.name}', logs / 'test.log', TOOLS / 'test.py', *flags)
    flags = [task.config, checkpoint, DATA / task.images, '--out', work_dir / 'predictions']
    title = f'draw predictions of the {task.name}'
    steps.run(title, logs / 'predict.log', TOOLS / 'predict.py', *flags)
    return json.loads((work_dir / 'metrics.json').read_text())


def contact_sheet(out: Path) -> Path:
    """Draw one picture: overlays of the detector, and below the same scenes by the segmentor."""
    rows = []
    for task in TASKS:
        overlays = sorted((out / task.name / 'predictions' / 'overlays').iterdir())
        pictures = []
        for path in overlays[:PICTURE_COLUMNS]:
            picture = cv2.imread(str(path))
            assert picture is not None, path
            pictures.append(cv2.resize(picture, (240, 240)))
        rows.append(np.hstack(pictures))
    path = out / 'predictions.jpg'
    cv2.imwrite(str(path), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return path


def print_metrics(console: Console, task: Task, metrics: dict[str, float]) -> bool:
    """Print the table of one task; return whether every metric reached its least value."""
    table = Table('metric', 'value', 'at least', title=task.name)
    reached = True
    for name, least in task.metrics.items():
        table.add_row(name, f'{metrics[name]:.3f}', str(least) if least else '')
        reached &= metrics[name] >= least
    console.print(table)
    return reached


def run_demo(out: Path, console: Console) -> int:
    """Run all steps and show the outcome; return the exit status.

    Raises:
        StepError: A step failed.
    """
    start = time.monotonic()
    shutil.rmtree(ROOT / out, ignore_errors=True)
    steps = Steps(console)
    steps.run('make the sample data', out / 'data.log', TOOLS / 'make_sample_data.py', DATA)
    metrics = {task.name: run_task(task, out, steps) for task in TASKS}
    picture = contact_sheet(ROOT / out)
    reached = [print_metrics(console, task, metrics[task.name]) for task in TASKS]
    for line in (
        f'pictures: {picture} (first scenes), {ROOT / out}/*/predictions/overlays (all)',
        f'logs:     {ROOT / out}/*/logs',
        f'{(time.monotonic() - start) / 60:.1f} minutes',
    ):
        console.print(line, highlight=False, soft_wrap=True)
    if not all(reached):
        console.print('a metric is below the least value that this run must reach', style='red')
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition(':')[0])
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/demo'), help='folder for results'
    )
    out = parser.parse_args(argv).out
    console = Console()
    try:
        return run_demo(out, console)
    except StepError as error:
        print(*error.tail, f'demo: {error}', sep='\n')
        return 1
    except KeyboardInterrupt:
        print(f'demo: interrupted; what was done so far is in {ROOT / out}')
        return INTERRUPTED_STATUS


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like an interruption
    sys.exit(main())
